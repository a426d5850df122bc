"""How well pictures fit their captions. The score is trained on rendered scenes (alignment_model.py).

    alignment.py train SCENES --held-out SCENES --output target/alignment.npz
    alignment.py score PICTURES --model target/alignment.npz [--captions FILE]
    alignment.py score --ablation RUN --model target/alignment.npz

SCENES are folders of `atedm scenes` (pictures, captions.txt). PICTURES is a folder, or its file of features.py. The measures:

- The mean cosine of a picture and its caption. The number has no meaning of its own. Compare it with that of held-out renders;
  `score` prints their row too.
- Retrieval accuracy: how often a picture's own caption has the highest cosine. It is measured among 32 other captions (the
  exact mean over all choices of 32) and among all captions. Candidates are the different captions of the set (with
  --candidates, of that file too). With fewer than 33 of them, both accuracies are the same.

In a run, points also have differences to their reference, over pictures of the same prompt. Intervals are of 95 %, by the
Bayesian bootstrap over pictures. Held-out scenes are only for the report; training never uses them.

The score is not a CLIP score. It knows the words and things of its scenes, and it cannot score a caption with another word.
"""

import pathlib

import numpy as np

from . import features
from . import measures
from . import tables
from . import trained
from .layout import captions_of, cells_of, fail, read_text

DISTRACTORS = 32


def chance_among(rivals, others, distractors):
    """The probability that `distractors` captions, drawn without repetition from `others`, include none of `rivals`. Rivals score
    as high as the right caption or higher. The probability is the product of (others - rivals - t) / (others - t)."""
    rivals, drawn = np.asarray(rivals, dtype=np.float64), np.arange(distractors)
    return np.prod(np.clip(others - rivals[:, None] - drawn, 0, None) / (others - drawn), axis=1)


def scores(model, values, captions, texts, source):
    """Cosine, hit among 32 others and hit among all of each picture, `[3, pictures]`; `texts` are the different captions."""
    place = {text: index for index, text in enumerate(texts)}
    similarities = model.similarities(values, texts, source)
    right = similarities[np.arange(len(captions)), [place[caption] for caption in captions]]
    rivals = (similarities >= right[:, None]).sum(axis=1) - 1  # the right caption itself does not count
    others = len(texts) - 1
    return np.stack([right, chance_among(rivals, others, min(DISTRACTORS, others)), rivals == 0])


def different(captions, candidates=()):
    """The captions to choose from. There are at least two."""
    texts = sorted(set(captions) | set(candidates))
    return texts if len(texts) > 1 else fail("captions", f"expected at least two different ones, got {texts[0]!r} alone")


def row_of(label, found, candidates, weights):
    """A row of pictures with their scores."""
    cosine, among, first = (measures.interval(measures.weighted_means(values, weights)) for values in found)
    n = {"pictures": found.shape[1], "candidates": candidates}
    return {"row": label, "label": label, "reference": None, "n": n, "cosine": cosine, "top1_of_33": among, "top1_of_all": first}


def of_scenes(folder, source, args):
    """Features of a folder in order, with captions. They are computed, or read from a file."""
    found = features.load(source or folder, args.threads)
    return found, captions_of(folder, found.names)


def train(args):
    torch = features.needed("torch")
    from .alignment_model import fitted

    found, captions = of_scenes(args.scenes, args.features, args)
    held_out, held_out_captions = of_scenes(args.held_out, args.held_out_features, args)
    torch.set_num_threads(args.threads)
    if len(found) < 100:
        fail(args.scenes, f"expected at least 100 scenes to train on, got {len(found)}")
    kept = len(found) - len(found) // 10  # the last tenth: combinations that training has seen, in other scenes
    model = fitted(found.values[:kept], captions[:kept], args.steps, args.seed)
    rows = []
    for label, values, texts, source in [
        ("renders, combinations of training", found.values[kept:], captions[kept:], args.scenes),
        ("renders, held-out combinations", held_out.values, held_out_captions, args.held_out),
    ]:
        weights = measures.bootstrap_weights(len(texts), args.replicates, args.seed)
        choice = different(texts)
        rows.append(row_of(label, scores(model, values, texts, choice, source), len(choice), weights))
    model.report = {"scenes": kept, "steps": args.steps, "seed": args.seed, "rows": rows}
    model.write(args.output)
    return rows


def of_run(model, args):
    """Rows of a run, one for each point, with differences to its reference over the prompts that both have."""
    cells = cells_of(args.ablation)
    parts = features.of_cells(args.ablation, cells, args.features, args.threads)
    choice = different([caption for cell in cells for caption in cell.captions.values()], candidates_of(args))
    ids = {id: row for row, id in enumerate(dict.fromkeys(id for cell in cells for id in cell.captions))}
    weights = measures.bootstrap_weights(len(ids), args.replicates, args.seed)
    found = {}
    for cell, part in zip(cells, parts):
        texts = [cell.captions[name] for name in part.names]
        found[cell.id] = dict(zip(part.names, scores(model, part.values, texts, choice, args.ablation).T))
    if args.reference and args.reference not in found:
        fail("--reference", f"expected a point ({', '.join(found)}), got {args.reference!r}")
    if args.per_picture:
        cosines = {id: {name: values[0] for name, values in own.items()} for id, own in found.items()}
        tables.write_pictures(args.per_picture, "caption_cosine:higher", cosines)
    rows = []
    for cell in cells:
        own, reference = found[cell.id], args.reference or cell.reference
        row = row_of(cell.id, np.array(list(own.values())).T, len(choice), weights[:, [ids[id] for id in own]])
        pictures = {name: {id: float(three[at]) for id, three in own.items()} for at, name in enumerate(["cosine", "top1_of_33"])}
        row |= {"label": cell.label, "reference": reference, "pictures": pictures}
        both = [id for id in own if reference not in (None, cell.id) and id in found[reference]]
        if both:
            chosen = weights[:, [ids[id] for id in both]]
            differences = np.array([own[id] - found[reference][id] for id in both]).T
            for name, values in zip(["cosine", "top1_of_33", "top1_of_all"], differences):
                row[f"{name}_difference"] = measures.interval(measures.weighted_means(values, chosen))
            row["n"]["pairs"] = len(both)
        rows.append(row)
    return rows


def candidates_of(args):
    """Captions of --candidates: one on each line, or the text after a tab."""
    if args.candidates is None:
        return []
    lines = [line.rsplit("\t", 1)[-1].strip() for line in read_text(args.candidates).splitlines()]
    return [line for line in lines if line] or fail(args.candidates, "expected captions in it, got none")


def score(args):
    torch = features.needed("torch")
    from .alignment_model import Alignment

    torch.set_num_threads(args.threads)
    model = Alignment.read(args.model)
    if args.ablation:
        rows = of_run(model, args)
    else:
        found = features.load(args.pictures, args.threads)
        texts = captions_of(found.folder, found.names, args.captions)
        choice = different(texts, candidates_of(args))
        weights = measures.bootstrap_weights(len(found), args.replicates, args.seed)
        values = scores(model, found.values, texts, choice, args.captions or args.pictures)
        rows = [row_of(pathlib.Path(args.pictures).stem, values, len(choice), weights)]
    return model.report["rows"] + rows


COLUMNS = [
    ("cosine", "cosine", 1, 4),
    ("right caption of 33 (%)", "top1_of_33", 100, 1),
    ("right caption of all (%)", "top1_of_all", 100, 1),
    ("Δ cosine", "cosine_difference", 1, 4),
    ("Δ of 33 (points)", "top1_of_33_difference", 100, 1),
    ("Δ of all (points)", "top1_of_all_difference", 100, 1),
]


def arguments():
    description = "How well pictures fit their captions, with bootstrap intervals of 95 %."
    parser, train, score = trained.parser(description, "atedm scenes", steps=1000, batch=256)
    train.add_argument("--features", help="the scenes' file of features.py, if there is one")
    train.add_argument("--held-out-features", help="the held-out scenes' file of features.py, if there is one")
    score.add_argument("--captions", help="captions of the pictures (default: captions.txt in the folder)")
    score.add_argument("--candidates", help="more captions to choose from, a line each")
    score.add_argument("--features", help="with --ablation: features of RUN/images")
    score.add_argument("--per-picture", metavar="FILE.csv", help="with --ablation: each cosine, for `atedm report --metrics`")
    args = trained.parsed(parser)
    if args.action == "score" and args.ablation is None and (args.features or args.per_picture):
        fail("--features, --per-picture", "expected with --ablation only")
    if args.action == "score" and args.ablation and args.captions:
        fail("--captions", "expected without --ablation: a run has its own")
    return args


def main():
    args = arguments()
    rows = train(args) if args.action == "train" else score(args)
    head = {"features": features.NETWORK, "bootstrap": "Bayesian, 95 %", "replicates": args.replicates, "seed": args.seed}
    tables.write(args, head, rows, COLUMNS)


if __name__ == "__main__":
    main()
