"""Whether generated scenes show what their prompts say. A small net trained on rendered scenes decides (classifier_model.py).

    classifier.py train SCENES --held-out SCENES --output target/classifier.npz
    classifier.py score --ablation RUN --labels labels.jsonl --model target/classifier.npz
    classifier.py score PICTURES --labels labels.jsonl --model target/classifier.npz

SCENES are folders of `atedm scenes --objects one` or `--objects two`. Training uses those of the training split. Those of the
held-out split are only for the report. labels.jsonl is the file of the scenes whose prompts (prompts.tsv) made the pictures.
Pictures have the scenes' ids as names. A measure is the share of pictures in which the net finds the label of the prompt:

- colour, shape, position: what the prompt asks of the object, and all three at once; size;
- style and tone of the background.

Of two objects, colour, shape and size count if both are in the picture, in any place. Position counts if both are where the prompt
says, left and right or top and bottom. *Both objects* are the pairs of colour and shape, in any place. All three are both objects in
their places.

Every table has the net's own accuracy on renders, because an accuracy of pictures cannot mean more than it. Only scenes with as
many objects as those of training count; the others are counted as skipped. Intervals are of 95 %. Shares have Wilson's intervals.
Differences to a point's reference (pictures of the same prompt and noise) have those of the Bayesian bootstrap over prompts.
"""

import pathlib
import sys

import numpy as np

from . import features
from . import measures
from . import tables
from . import trained
from .labels import COUNTS, heads_of, labels_of
from .layout import cells_of, fail, pictures_under, read_picture

NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution."""


def wilson(hits):
    """The share of hits with Wilson's interval (Probable inference, the law of succession, and statistical inference, 1927): the
    shares p with |p̂ - p| ≤ z (p (1 - p) / n)^½. Its width is not zero even at 100 %, where that of the bootstrap is."""
    n, share = len(hits), float(np.mean(hits))
    z = NORMAL**2 / n
    middle = (share + z / 2) / (1 + z)
    half = np.sqrt(z * (share * (1 - share) + z / 4)) / (1 + z)
    return {"value": share, "low": float(max(middle - half, 0)), "high": float(min(middle + half, 1)), "n": n}


def read_pictures(paths, side=None):
    """8-bit pictures `[pictures, side, side, 3]`. All have the size `side`, or else the first one's. A picture that is a whole number
    of times as large is averaged to this size."""
    pictures = []
    for path in paths:
        picture = read_picture(path)
        side = side or len(picture)
        height, width = picture.shape[:2]
        if height != width or height % side != 0:
            fail(path, f"expected {side} x {side} pixels, or a multiple of both, got {width} x {height}")
        if height > side:
            blocks = picture.reshape(side, height // side, side, width // side, 3)
            picture = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
        pictures.append(picture)
    return np.stack(pictures)


def scenes_of(folder):
    """Pictures of a folder of scenes, their number of objects, and their labels."""
    path = pathlib.Path(folder) / "labels.jsonl"
    labels = labels_of(path)
    counts = {count for _, count, _ in labels.values()}
    if len(counts) > 1:
        fail(path, "expected scenes with the same number of objects (`atedm scenes --objects one`, or two)")
    paths = [pathlib.Path(folder) / f"{id}.png" for id in labels]
    return read_pictures(paths), counts.pop(), [words for _, _, words in labels.values()]


def hits_of(model, pictures, labels, source):
    """Whether the net finds each label, by measure `[pictures]`."""
    for head in model.names:
        unknown = {words[head] for words in labels} - set(model.classes[head])
        if unknown:
            fail(source, f"the {head} {unknown.pop()!r} is in no scene of the net's training")
    told = model.told(pictures)
    hits = {head: np.array([model.classes[head][number] == words[head] for number, words in zip(told[:, place], labels)])
            for place, head in enumerate(model.names)}
    if model.objects == 1:
        return hits | {"object": hits["colour"] & hits["shape"] & hits["position"]}
    found = [{head: model.classes[head][number] for head, number in zip(model.names, row)} for row in told]

    def both(*names):
        """Whether the two objects have these words, in any place."""
        kinds = lambda words: sorted(tuple(words[name + number] for name in names) for number in (" 1", " 2"))
        return np.array([kinds(seen) == kinds(words) for seen, words in zip(found, labels)])

    exact = np.all([hits[name + number] for number in (" 1", " 2") for name in ("colour", "shape", "position")], axis=0)
    return {"colour": both("colour"), "shape": both("shape"), "position": hits["position 1"] & hits["position 2"],
            "pair": both("colour", "shape"), "object": exact, "size": both("size"), "style": hits["style"], "tone": hits["tone"]}


def row_of(label, hits, reference=None, skipped=0):
    """A row of pictures with the shares of their hits."""
    n = {"pictures": len(hits["object"])} | ({"skipped": skipped} if skipped else {})
    return {"row": label, "label": label, "reference": reference, "n": n} | {name: wilson(hit) for name, hit in hits.items()}


def train(args):
    features.needed("torch").set_num_threads(args.threads)
    from .classifier_model import fitted

    pictures, objects, labels = scenes_of(args.scenes)
    held_out, held_out_objects, held_out_labels = scenes_of(args.held_out)
    if objects != held_out_objects:
        fail(args.held_out, f"expected scenes of {COUNTS[objects]}, as those of training")
    if len(pictures) < 100:
        fail(args.scenes, f"expected at least 100 scenes to train on, got {len(pictures)}")
    kept = len(pictures) - len(pictures) // 10  # the last tenth: combinations that training has seen, in other scenes
    classes = {head: sorted({words[head] for words in labels[:kept]}) for head in heads_of(objects)}
    targets = np.array([[classes[head].index(words[head]) for head in classes] for words in labels[:kept]])
    model = fitted(pictures[:kept], targets, classes, objects, args, lambda line: print(line, file=sys.stderr))
    renders = "renders" if objects == 1 else "renders of two objects"
    rows = [
        row_of(f"{renders}, combinations of training", hits_of(model, pictures[kept:], labels[kept:], args.scenes)),
        row_of(f"{renders}, held-out combinations", hits_of(model, held_out, held_out_labels, args.held_out)),
    ]
    model.report = {"scenes": kept, "steps": args.steps, "seed": args.seed, "rows": rows}
    model.write(args.output)
    return rows


def of_pictures(model, labels, pictures, captions, args):
    """Ids of the pictures with the net's number of objects, its hits on them, and the number of other pictures, which are skipped."""
    for id in pictures:
        if id not in labels:
            fail(args.labels, f"expected labels of the picture {id!r}")
        if captions and captions[id] != labels[id][0]:
            fail(args.labels, f"scene {id!r} is {labels[id][0]!r}, but the picture's prompt is {captions[id]!r}")
    ids = [id for id in pictures if labels[id][1] == model.objects]
    if not ids:
        fail(args.labels, f"expected scenes of {COUNTS[model.objects]} among those of the pictures, got none")
    values = read_pictures([pictures[id] for id in ids], model.side)
    return ids, hits_of(model, values, [labels[id][2] for id in ids], args.labels), len(pictures) - len(ids)


def of_run(model, labels, args):
    """Rows of a run, one for each point, with differences to its reference over the prompts that both have."""
    cells = cells_of(args.ablation)
    found = {cell.id: of_pictures(model, labels, cell.pictures, cell.captions, args) for cell in cells}
    place = {id: row for row, id in enumerate(dict.fromkeys(id for ids, _, _ in found.values() for id in ids))}
    weights = measures.bootstrap_weights(len(place), args.replicates, args.seed)
    if args.reference and args.reference not in found:
        fail("--reference", f"expected a point ({', '.join(found)}), got {args.reference!r}")
    rows = []
    for cell in cells:
        ids, hits, skipped = found[cell.id]
        reference = args.reference or cell.reference
        own = {name: dict(zip(ids, map(int, hits[name]))) for name in ("colour", "shape", "position", "object")}
        row = row_of(cell.id, hits, reference, skipped) | {"label": cell.label, "pictures": own}
        if reference not in (None, cell.id) and reference in found:
            others, other_hits, _ = found[reference]
            other = {id: at for at, id in enumerate(others)}
            both = [id for id in ids if id in other]
            if both:
                chosen = weights[:, [place[id] for id in both]]
                for name in own:
                    differences = [float(own[name][id]) - float(other_hits[name][other[id]]) for id in both]
                    row[f"{name}_difference"] = measures.interval(measures.weighted_means(differences, chosen))
                row["n"]["pairs"] = len(both)
        rows.append(row)
    return rows


def score(args):
    features.needed("torch").set_num_threads(args.threads)
    from .classifier_model import Classifier

    model, labels = Classifier.read(args.model), labels_of(args.labels)
    if args.ablation:
        return model.report["rows"] + of_run(model, labels, args)
    _, hits, skipped = of_pictures(model, labels, pictures_under(args.pictures), None, args)
    return model.report["rows"] + [row_of(pathlib.Path(args.pictures).name, hits, None, skipped)]


COLUMNS = [
    ("colour (%)", "colour", 100, 1),
    ("shape (%)", "shape", 100, 1),
    ("position (%)", "position", 100, 1),
    ("both objects (%)", "pair", 100, 1),
    ("all three (%)", "object", 100, 1),
    ("size (%)", "size", 100, 1),
    ("style (%)", "style", 100, 1),
    ("tone (%)", "tone", 100, 1),
    ("Δ colour (points)", "colour_difference", 100, 1),
    ("Δ shape (points)", "shape_difference", 100, 1),
    ("Δ position (points)", "position_difference", 100, 1),
    ("Δ all three (points)", "object_difference", 100, 1),
]


def arguments():
    description = "Colour, shape and position of one or two objects in generated scenes, told by a small net."
    parser, _, score = trained.parser(description, "atedm scenes --objects one", steps=1500, batch=64)
    score.add_argument("--labels", required=True, help="labels.jsonl of the scenes whose prompts were drawn")
    return trained.parsed(parser)


def main():
    args = arguments()
    rows = train(args) if args.action == "train" else score(args)
    head = {"intervals": "95 %: Wilson's of shares, Bayesian bootstrap's of differences"}
    tables.write(args, head | {"replicates": args.replicates, "seed": args.seed}, rows, COLUMNS)


if __name__ == "__main__":
    main()
