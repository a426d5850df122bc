"""Golden ids of transformers' CLIPTokenizer, over random files of special and added tokens.

    python tokenizer_cases.py

It writes tests/fixtures/tokenizer-cases.json. `files` are to be put beside the vocabulary of tiny-a's first tokenizer. The ids of each
prompt are those that diffusers gets (tokens of several vectors written out).
"""

import json
import os
import random
import shutil
import tempfile

import transformers
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from transformers import CLIPTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(os.path.dirname(HERE), "fixtures")
VOCABULARY = os.path.join(FIXTURES, "tiny-a", "tokenizer")
CASES, VOCABULARY_SIZE, LENGTH = 80, 610, 18

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
SPECIAL = ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "<|startoftext|>", "!", "<pad>", "Foo")
ADDED = ("<s0>", "<s1>", "<S2>", "<c>", "<c>_1", "<c>_2", "cat", "!", "<|endoftext|>", "Foo", "é", "<pad>", "a")
PROMPTS = (
    "a <s0> of <s1>",
    "A<S0>b <s2> <S2>",
    "a<|EndOfText|>b !",
    "!! <|endoftext|> red",
    "a <c> cat CAT cats",
    "  <s0> ,  <S1>foo Foo FOO",
    "É é <pad> Aa",
    "<c>! x<c>_1 <|StartOfText|>",
)


def flags(draw, content, typed):
    """A token with flags. `typed` marks it as tokenizer_config.json does."""
    token = {"content": content}
    for name in ("lstrip", "rstrip", "single_word", "normalized"):
        if draw.random() < 0.85:
            token[name] = draw.random() < (0.5 if name == "normalized" else 0.25)
    return {**token, "__type": "AddedToken"} if typed else {**token, "special": draw.random() < 0.5}


def named(draw, typed):
    """Some special tokens."""
    chosen = [name for name in NAMES if draw.random() < 0.4]
    contents = [draw.choice(SPECIAL) for _ in chosen]
    tokens = [content if draw.random() < 0.5 else flags(draw, content, typed) for content in contents]
    return dict(zip(chosen, tokens))


def files(draw, vocabulary):
    """The files of one folder, by name."""
    some = lambda most: draw.sample(ADDED, draw.randint(0, most))
    config = {"model_max_length": LENGTH, **named(draw, True)}
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if draw.random() < 0.2:
            config[name] = [token if draw.random() < 0.6 else flags(draw, token, True) for token in some(3)]
    for name in ("padding_side", "truncation_side"):
        if draw.random() < 0.1:
            config[name] = "left"
    if draw.random() < 0.4:
        ids = {token: vocabulary.get(token, VOCABULARY_SIZE + i) for i, token in enumerate(some(5))}
        config["added_tokens_decoder"] = {str(i): flags(draw, token, False) for token, i in ids.items()}
    made = {"tokenizer_config.json": config}
    if draw.random() < 0.6:
        made["special_tokens_map.json"] = named(draw, False)
        if draw.random() < 0.3:
            made["special_tokens_map.json"]["additional_special_tokens"] = some(2)
    if draw.random() < 0.5:
        made["added_tokens.json"] = {token: VOCABULARY_SIZE + i for i, token in enumerate(some(5))}
    return made


def main():
    """Writes the fixture."""
    draw = random.Random(0)
    with open(os.path.join(VOCABULARY, "vocab.json"), encoding="utf-8") as f:
        vocabulary = json.load(f)
    cases = []
    for _ in range(CASES):
        made = files(draw, vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("vocab.json", "merges.txt"):
                shutil.copy(os.path.join(VOCABULARY, name), folder)
            for name, value in made.items():
                with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                    json.dump(value, f)
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        ids = {}
        for prompt in draw.sample(PROMPTS, 4):
            text = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
            ids[prompt] = tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True).input_ids
        cases.append({"files": made, "ids": ids})
    with open(os.path.join(FIXTURES, "tokenizer-cases.json"), "w", encoding="utf-8") as f:
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        f.write(f'{{"transformers": "{transformers.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
