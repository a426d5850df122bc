"""Writes tests/fixtures/prompts: weighted and long prompts, left out layers and textual inversions on tiny-a and tiny-b.

    target/python/bin/pip install --no-deps compel==2.4.0 pyparsing==3.3.3
    target/python/bin/python tests/python/prompts.py

The syntax compel is the library itself. The syntax a1111 is webui_reference.py. Both give embeddings that diffusers runs with.
`none` is diffusers' own way, with its `clip_skip` and `load_textual_inversion`.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

import checkpoints
import make_fixtures
import parity
import reference
import torch
import webui_reference as webui
from compel import Compel, DiffusersTextualInversionManager, ReturnedEmbeddingsType
from safetensors.torch import load_file, save_file

FIXTURES = os.path.join(ROOT, "tests", "fixtures")
FOLDER = os.path.join(FIXTURES, "prompts")

CIRCLE, CAT, BLURRY = "a photo of a red circle on a blue background", "a small cat", "blurry, low quality"
LONG = ", ".join(["a painting of a small cat in the garden", "two dogs running along the beach at sunset", "watercolor, 8k"] * 4)
SENTENCES = "the quick brown fox jumps over the lazy dog. it's a castle on a hill; the sky is purple. " * 4

# Prompts whose ids and weights are compared, by syntax.
READ = {
    "a1111": [
        "",
        CIRCLE,
        "a (red) fox, [quiet] hill",
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        r"a \(red\) (fox \[old\]:1.4) \\ hill \x",
        "(unbalanced fox, [dogs",
        "closed) fox] at 12:30) (a:b)",
        "(a dog: 1.5 ) (a cat:-.5)",
        "a fox BREAK a dog BREAK  two cats BREAKFAST",
        "BREAK a dog",
        LONG,
        LONG + ", " + "fox " * 30,
        "fox " * 75 + ", dog",
        "fox " * 60 + ", " + "dog " * 20 + "(cat:1.3)",
        "(" + LONG + ":1.2) (" + LONG + ")",
        "(fox:0) (dog:2)",
    ],
    "compel": [
        "",
        CIRCLE,
        "a red++ fox, a quiet-- hill",
        "a (red fox)1.3 on a (grey (old (castle)1.2)++)0.8",
        "a (red fox) on, a hill. The sky",
        "a (red fox, 3.5 dogs)1.2, two cats",
        '"a red fox"1.3 and "two dogs"++ "cats"',
        r"a \(red\) fox (old \(grey\) dog)1.2 \"cat\"",
        "a spider-man, 8k-like c++ - dog -cat +fox ++dog",
        "(unbalanced fox (dog)1.2",
        "fox) dog)1.2 (a = b)1.2 (fox",
        "(fox)1.5(dog)0.5 (cat) 1.2",
        "(fox)1. (dog).5 (cat)2 (star)-- (moon)+1.2",
        "fox.attend(1.3) (two dogs).attend(++) cat.attend( - )",
        "a cat,dog,,fox",
        "(a)1.2 (b)1.2 (c)1.1",
        "() fox ()1.3",
        LONG,
        SENTENCES,
        "fox " * 160,
        "a (" + SENTENCES + ")1.2 (" + LONG + ")0.7",
        "(fox)0 dog",
    ],
}


def run(name, model, syntax, width=64, height=64, prompts=(CIRCLE,), steps=4, guidance=5.0, **more):
    """A whole run."""
    return dict(name=name, model=model, syntax=syntax, prompts=list(prompts), steps=steps, guidance_scale=guidance,
                width=width, height=height, **more)


def runs():
    """The list of whole runs. Some have no `latents` of their own length: positive and negative prompts differ in length."""
    a, b = "tiny-a", "tiny-b"
    weighted = "a (red:1.4) circle on a [blue] background, (watercolor)"
    raised = "a red++ circle on a (blue background)0.6, (watercolor)1.2"
    word = "a photo of <fox> on a hill, fox-style"
    return [
        run("none.clip-skip", a, "none", clip_skip=1, prompts=[CIRCLE, CAT], negative_prompt=BLURRY),
        run("none.clip-skip.1", b, "none", 96, 96, clip_skip=1, negative_prompt=BLURRY),
        run("none.words", a, "none", prompts=[word, CAT], negative_prompt="fox-style", words=True),
        run("none.words.b", b, "none", 96, 96, prompts=[word], words=True),
        run("a1111.weighted", a, "a1111", prompts=[weighted, CAT], negative_prompt="(blurry:1.3), low quality"),
        run("a1111.long", a, "a1111", prompts=[LONG], negative_prompt="(blurry:1.2)"),
        run("a1111.long-negative", a, "a1111", prompts=[weighted], negative_prompt=LONG),
        run("a1111.break", b, "a1111", 96, 96, prompts=["a (red:0.7) circle BREAK a [small] cat"], negative_prompt=""),
        run("a1111.words", b, "a1111", 96, 96, prompts=["(<fox>:1.2) on a hill, [fox-style]"], negative_prompt="", words=True),
        run("a1111.clip-skip", a, "a1111", clip_skip=1, prompts=[weighted], negative_prompt=BLURRY),
        run("compel.weighted", a, "compel", prompts=[raised, CAT], negative_prompt="(blurry)1.3, low quality"),
        run("compel.long", a, "compel", prompts=[SENTENCES + "(fox)0.5"], negative_prompt="blurry-"),
        run("compel.words", b, "compel", 96, 96, prompts=["(<fox>)1.2 on a hill, (fox-style)0.6"], negative_prompt="", words=True),
        run("a1111.pruned", a, "a1111", 96, 96, prompts=[weighted + " BREAK " + CAT], negative_prompt=BLURRY, steps=8, prune=""),
        run("compel.pruned", a, "compel", 96, 96, prompts=[raised], negative_prompt=BLURRY, steps=8,
            prune="score=cross,ratio=0.4"),
    ]


# --- textual inversions --------------------------------------------------------------------------------------------


def write_words(model, widths):
    """Two embeddings for a checkpoint: <fox> with three vectors, fox-style with one."""
    for seed, (word, count) in enumerate((("<fox>", 3), ("fox-style", 1))):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, width in zip(("clip_l", "clip_g"), widths):
            tensors[name] = (0.4 * torch.randn((count, width), generator=generator)).half()
        # A single vector may lack its axis.
        if count == 1:
            tensors = {name: value[0] for name, value in tensors.items()}
        save_file(tensors, os.path.join(FOLDER, f"{model}.{word.strip('<>')}.safetensors"))


def words(model):
    """The embeddings of a checkpoint: the word and its file."""
    return [("<fox>", f"{model}.fox.safetensors"), ("fox-style", f"{model}.fox-style.safetensors")]


def load(model, with_words):
    """diffusers' pipeline of a checkpoint, with its words if wanted."""
    pipe = checkpoints.load(os.path.join(FIXTURES, model))
    for word, file in words(model) if with_words else []:
        state = load_file(os.path.join(FOLDER, file))
        for key, part in (("clip_l", ""), ("clip_g", "_2")):
            encoder, tokenizer = getattr(pipe, "text_encoder" + part), getattr(pipe, "tokenizer" + part)
            pipe.load_textual_inversion(state[key], token=word, text_encoder=encoder, tokenizer=tokenizer)
    return pipe


# --- the syntaxes --------------------------------------------------------------------------------------------------


class Webui:
    """The web UI's embeddings by webui_reference.py and transformers' encoders."""

    def __init__(self, pipe, clip_skip=0):
        self.pipe, self.clip_skip = pipe, clip_skip

    def unit(self, tokenizer):
        added = {ids: text for text, ids in tokenizer.added_tokens_encoder.items()}

        def of(ids):
            count, word = 1, added.get(ids[0])
            while word and count < len(ids) and added.get(ids[count]) == f"{word}_{count}":
                count += 1
            return count

        return of

    def chunks(self, text, part):
        tokenizer = getattr(self.pipe, "tokenizer" + part)
        return webui.chunks(
            text, tokenizer, self.unit(tokenizer), lambda text: self.pipe.maybe_convert_prompt(text, tokenizer)
        )

    def states(self, ids, part):
        encoder = getattr(self.pipe, "text_encoder" + part)
        out = encoder(torch.tensor([ids]), output_hidden_states=True)
        return out.hidden_states[-2 - self.clip_skip], out.text_embeds if part else None

    def encode(self, text):
        sides, pooled = [], None
        for part in ("", "_2"):
            states = []
            for number, (ids, weights) in enumerate(self.chunks(text, part)):
                hidden, own = self.states(ids, part)
                pooled = own if number == 0 and part else pooled
                states.append(webui.weigh(hidden, weights))
            sides.append(torch.cat(states, dim=1))
        return torch.cat(sides, dim=-1), pooled

    def empty(self):
        sides = [self.states(webui.empty(getattr(self.pipe, "tokenizer" + part))[0], part)[0] for part in ("", "_2")]
        return torch.cat(sides, dim=-1)


class ByCompel:
    """compel's embeddings, with its settings for SD-XL and for long prompts."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.compel = Compel(
            tokenizer=[pipe.tokenizer, pipe.tokenizer_2],
            text_encoder=[pipe.text_encoder, pipe.text_encoder_2],
            returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
            requires_pooled=[False, True],
            truncate_long_prompts=False,
            textual_inversion_manager=DiffusersTextualInversionManager(pipe),
        )

    def chunks(self, text, part):
        provider = self.compel.conditioning_provider.embedding_providers[1 if part else 0]
        prompts = Compel.parse_prompt_string(text).prompts
        parts = [(f.text, f.weight) for prompt in prompts for f in prompt.children]
        fragments, weights = [text for text, _ in parts], [weight for _, weight in parts]
        ids, weights, _ = provider.get_token_ids_and_expand_weights(fragments, weights, device="cpu")
        length = provider.max_token_count
        return [(i.tolist(), w.tolist()) for i, w in zip(ids.split(length), weights.split(length))]

    def encode(self, text):
        return self.compel(text)

    def empty(self):
        return self.compel("")[0]


def embeddings(texts):
    """Embeddings of (maker, text) pairs, all of one length, and their pooled states."""
    made = [(maker, *maker.encode(text)) for maker, text in texts]
    longest = max(states.shape[1] for _, states, _ in made)
    long = []
    for maker, states, _ in made:
        empty = maker.empty()
        long.append(torch.cat([states, *[empty] * ((longest - states.shape[1]) // empty.shape[1])], dim=1))
    return torch.cat(long), torch.cat([pooled for _, _, pooled in made])


def text_of(pipe, case):
    """What the pipeline gets in place of prompts."""
    negatives = None if case.get("negative_prompt") is None else [case["negative_prompt"]] * len(case["prompts"])
    if case["syntax"] == "none":
        return dict(prompt=case["prompts"], negative_prompt=negatives, clip_skip=case.get("clip_skip"))
    # As in diffusers, no more layers are left out for negative prompts.
    skips = (case.get("clip_skip", 0), 0)
    of, negative = [Webui(pipe, skip) if case["syntax"] == "a1111" else ByCompel(pipe) for skip in skips]
    states, pooled = embeddings([(of, text) for text in case["prompts"]] + [(negative, text) for text in negatives])
    half = len(case["prompts"])
    return dict(
        prompt_embeds=states[:half],
        negative_prompt_embeds=states[half:],
        pooled_prompt_embeds=pooled[:half],
        negative_pooled_prompt_embeds=pooled[half:],
    )


# --- files ---------------------------------------------------------------------------------------------------------


def write_readings():
    """readings.json: the ids and weights of every chunk. The second encoder pads with another token; its long ones are left out."""
    listed = []
    for model in ("tiny-a", "tiny-b"):
        pipe = load(model, False)
        for syntax, texts in READ.items():
            maker = Webui(pipe) if syntax == "a1111" else ByCompel(pipe)
            for text in texts:
                for encoder, part in ((0, ""), (1, "_2")):
                    if encoder == 1 and (model == "tiny-b" or len(text) > 300):
                        continue
                    chunks = maker.chunks(text, part)
                    weights = [[[i, w] for i, w in enumerate(ws) if w != 1.0] for _, ws in chunks]
                    ids = [strip(ids) for ids, _ in chunks]
                    row = dict(model=model, syntax=syntax, encoder=encoder, prompt=text, ids=ids, weights=weights)
                    listed.append(row)
    make_fixtures.write_json(os.path.join(FOLDER, "readings.json"), listed)


def strip(ids):
    """Ids without the repeated last one: it fills the rest."""
    end = len(ids)
    while end > 1 and ids[end - 2] == ids[-1]:
        end -= 1
    return ids[:end]


def write_runs():
    """runs.safetensors and runs.json."""
    out, listed = {}, []
    for index, case in enumerate(runs()):
        with torch.no_grad():
            pipe = load(case["model"], case.get("words"))
            text = text_of(pipe, case)
            seed = 200 + index
            if "prune" in case:
                seed = parity.clear_seed(pipe, dict(case, text=text))
            latents = reference.initial_latents(pipe, dict(case, seed=seed))
            start, final, _, pruned = reference.generate(pipe, dict(case, text=text), latents)
        label = case["name"]
        out[label + ".latents"], out[label + ".final_latents"] = start, final
        # Long ones are large, and their runs show whether they are right.
        if "prompt_embeds" in text and text["prompt_embeds"].shape[1] <= pipe.tokenizer.model_max_length:
            out[label + ".tokens"], out[label + ".pooled"] = text["prompt_embeds"], text["pooled_prompt_embeds"]
        entry = dict(case)
        if case.get("words"):
            entry["words"] = [dict(word=word, file=file) for word, file in words(case["model"])]
        if pruned:
            margins = {kind: pruned.margin(kind) for kind in ("kept", "copy", "stop")}
            entry["margins"] = {k: v for k, v in margins.items() if v != float("inf")}
        print(label, entry.get("margins", ""), {k: list(v.shape) for k, v in text.items() if torch.is_tensor(v)})
        listed.append(entry)
    make_fixtures.write_tensors(os.path.join(FOLDER, "runs.safetensors"), out)
    make_fixtures.write_json(os.path.join(FOLDER, "runs.json"), listed)


def main():
    os.makedirs(FOLDER, exist_ok=True)
    write_words("tiny-a", (16, 24))
    write_words("tiny-b", (16, 16))
    write_readings()
    write_runs()


if __name__ == "__main__":
    main()
