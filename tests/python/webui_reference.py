"""AUTOMATIC1111's rules for prompts, written from their description and independent of this project's Rust code.

    read("a (red:1.3) fox BREAK snow")      [[("a ", 1.0), ("red", 1.3), (" fox", 1.0)], [("snow", 1.0)]]

A prompt is read sign by sign. Every letter carries its own weight, and a closing bracket multiplies the weights of all letters since
the opening one. Parts between BREAKs are packed into chunks one after the other.
"""

import re

NUMBER = re.compile(r":\s*([-+]?[.\d]+)\s*\)")
BREAK = re.compile(r"\s*\bBREAK\b\s*")
COMMA_REACH = 20


def letters(text):
    """[letter, weight, literal] of every letter. A literal letter stood behind a backslash."""
    out, round_, square, i = [], [], [], 0

    def multiply(start, factor):
        for letter in out[start:]:
            letter[1] *= factor

    while i < len(text):
        sign = text[i]
        number = NUMBER.match(text, i)
        if sign == "\\":
            i += 1
            if i < len(text) and text[i] in "()[]\\":
                out.append([text[i], 1.0, True])
                i += 1
            continue
        if number and round_:
            multiply(round_.pop(), float(number.group(1)))
            i = number.end()
            continue
        if sign == "(":
            round_.append(len(out))
        elif sign == "[":
            square.append(len(out))
        elif sign == ")" and round_:
            multiply(round_.pop(), 1.1)
        elif sign == "]" and square:
            multiply(square.pop(), 1 / 1.1)
        else:
            out.append([sign, 1.0, False])
        i += 1
    for start in round_:
        multiply(start, 1.1)
    for start in square:
        multiply(start, 1 / 1.1)
    return out


def read(text):
    """A list of parts, which BREAKs separate. A part is a list of (text, weight)."""
    signs = letters(text)
    plain = "".join("\0" if literal or weight != 1.0 else letter for letter, weight, literal in signs)
    cuts = [match.span() for match in BREAK.finditer(plain)]
    parts, start = [], 0
    for end, after in [*cuts, (len(signs), len(signs))]:
        part = []
        for letter, weight, _ in signs[start:end]:
            if part and part[-1][1] == weight:
                part[-1] = (part[-1][0] + letter, weight)
            else:
                part.append((letter, weight))
        parts.append(part)
        start = after
    return parts


def pack(tokens, comma, room, unit):
    """Splits (id, weight) pairs into chunks of at most `room`. A full chunk ends at its last comma if that is near. `unit(ids)` is
    the number of ids at the start that belong together."""
    chunks = []
    while len(tokens) > room:
        cut, ids = room, [token for token, _ in tokens]
        commas = [i for i in range(room) if ids[i] == comma]
        if ids[room] != comma and commas and room - commas[-1] <= COMMA_REACH:
            cut = commas[-1] + 1
        i = 0
        while i < cut:
            step = unit(ids[i:])
            if i + step > cut:
                cut = i
                break
            i += step
        chunks.append(tokens[:cut])
        tokens = tokens[cut:]
    return [*chunks, tokens] if tokens else chunks


def chunks(text, tokenizer, unit=lambda ids: 1, convert=lambda text: text):
    """Lists of ids and of weights, one pair for each chunk of the tokenizer's length."""
    room = tokenizer.model_max_length - 2
    comma = tokenizer.get_vocab().get(",</w>")
    packed, parts = [], read(text)
    for number, part in enumerate(parts):
        tokens = []
        for words, weight in part:
            ids = tokenizer(convert(words), add_special_tokens=False).input_ids
            tokens += [(token, weight) for token in ids]
        own = pack(tokens, comma, room, unit)
        last = number + 1 == len(parts)
        packed += own if own or last else [[]]
    out = []
    for chunk in packed or [[]]:
        rest = room - len(chunk)
        ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        out.append((ids + [tokenizer.pad_token_id] * rest, [1.0, *(w for _, w in chunk), 1.0] + [1.0] * rest))
    return out


def empty(tokenizer):
    """The chunk of an empty prompt."""
    length = tokenizer.model_max_length
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (length - 2), [1.0] * length


def weigh(states, weights):
    """states [1,N,C] times the weights, with the mean of before."""
    import torch

    weighted = states * torch.tensor(weights).reshape(1, -1, 1)
    return weighted * (states.mean() / weighted.mean())
