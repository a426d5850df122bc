"""Whether generated scenes show what their prompts say. A small net trained on rendered scenes decides (classifier_model.py).

    classifier.py train SCENES --held-out SCENES --output target/classifier.npz
    classifier.py score --ablation RUN --labels labels.jsonl --model target/classifier.npz
    classifier.py score PICTURES --labels labels.jsonl --model target/classifier.npz

SCENES are folders of `atedm scenes --single`. Training uses those of the training split. Those of the held-out split are only for
the report. labels.jsonl is the file of the scenes whose prompts (prompts.tsv) made the pictures. Pictures have the scenes' ids as
names. A measure is the share of pictures in which the net finds the label of the prompt:

- colour, shape, position: what the prompt asks of the object, and all three at once; size;
- style and tone of the background.

Every table has the net's own accuracy on renders, because an accuracy of pictures cannot mean more than it. Only scenes of one
object count; the others are counted as skipped. Intervals are of 95 %. Shares have Wilson's intervals. Differences to a point's
reference (pictures of the same prompt and noise) have those of the Bayesian bootstrap over prompts.
"""

import pathlib
import sys

import numpy as np

from . import features
from . import measures
from . import tables
from . import trained
from .layout import cells_of, fail, pictures_under, read_lines, read_picture

OF_OBJECT = ("colour", "shape", "position", "size")
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


def labels_of(path):
    """Labels of scenes by id: the caption and one word for each head. None for a scene of more than one object."""
    found = {}
    for line in read_lines(path, ["id", "caption", "objects", "background"]):
        try:
            words = {name: line["objects"][0][name] for name in OF_OBJECT}
            words |= {"style": line["background"]["style"], "tone": line["background"]["colour"]}
        except (KeyError, IndexError, TypeError):
            fail(path, f"scene {line['id']!r}: expected colour, shape, position and size of an object, and a background")
        found[line["id"]] = (line["caption"], words if len(line["objects"]) == 1 else None)
    return found or fail(path, "expected labels in it, got none")


def read_pictures(paths, side=None):
    """8-bit pictures `[pictures, side, side, 3]`. All have the size `side`, or else the first one's."""
    pictures = []
    for path in paths:
        picture = read_picture(path)
        side = side or len(picture)
        if picture.shape[:2] != (side, side):
            fail(path, f"expected {side} x {side} pixels, got {picture.shape[1]} x {picture.shape[0]}")
        pictures.append(picture)
    return np.stack(pictures)


def scenes_of(folder):
    """Pictures of a folder of single-object scenes, and their labels."""
    path = pathlib.Path(folder) / "labels.jsonl"
    labels = labels_of(path)
    if any(words is None for _, words in labels.values()):
        fail(path, "expected scenes of one object (`atedm scenes --single`)")
    paths = [pathlib.Path(folder) / f"{id}.png" for id in labels]
    return read_pictures(paths), [words for _, words in labels.values()]


def hits_of(model, pictures, labels, source):
    """Whether the net finds each label, by measure `[pictures]`."""
    from .classifier_model import HEADS

    for head in HEADS:
        unknown = {words[head] for words in labels} - set(model.classes[head])
        if unknown:
            fail(source, f"the {head} {unknown.pop()!r} is in no scene of the net's training")
    told = model.told(pictures)
    hits = {head: np.array([model.classes[head][number] == words[head] for number, words in zip(told[:, place], labels)])
            for place, head in enumerate(HEADS)}
    return hits | {"object": hits["colour"] & hits["shape"] & hits["position"]}


def row_of(label, hits, reference=None, skipped=0):
    """A row of pictures with the shares of their hits."""
    n = {"pictures": len(hits["object"])} | ({"skipped": skipped} if skipped else {})
    return {"row": label, "label": label, "reference": reference, "n": n} | {name: wilson(hit) for name, hit in hits.items()}


def train(args):
    features.needed("torch").set_num_threads(args.threads)
    from .classifier_model import HEADS, fitted

    pictures, labels = scenes_of(args.scenes)
    held_out, held_out_labels = scenes_of(args.held_out)
    if len(pictures) < 100:
        fail(args.scenes, f"expected at least 100 scenes to train on, got {len(pictures)}")
    kept = len(pictures) - len(pictures) // 10  # the last tenth: combinations that training has seen, in other scenes
    classes = {head: sorted({words[head] for words in labels[:kept]}) for head in HEADS}
    targets = np.array([[classes[head].index(words[head]) for head in HEADS] for words in labels[:kept]])
    model = fitted(pictures[:kept], targets, classes, args, lambda line: print(line, file=sys.stderr))
    rows = [
        row_of("renders, combinations of training", hits_of(model, pictures[kept:], labels[kept:], args.scenes)),
        row_of("renders, held-out combinations", hits_of(model, held_out, held_out_labels, args.held_out)),
    ]
    model.report = {"scenes": kept, "steps": args.steps, "seed": args.seed, "rows": rows}
    model.write(args.output)
    return rows


def of_pictures(model, labels, pictures, captions, args):
    """Ids of the pictures of one object, the net's hits on them, and the number of other pictures, which are skipped."""
    for id in pictures:
        if id not in labels:
            fail(args.labels, f"expected labels of the picture {id!r}")
        if captions and captions[id] != labels[id][0]:
            fail(args.labels, f"scene {id!r} is {labels[id][0]!r}, but the picture's prompt is {captions[id]!r}")
    ids = [id for id in pictures if labels[id][1] is not None]
    if not ids:
        fail(args.labels, "expected scenes of one object among those of the pictures, got none")
    values = read_pictures([pictures[id] for id in ids], model.side)
    return ids, hits_of(model, values, [labels[id][1] for id in ids], args.labels), len(pictures) - len(ids)


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
    description = "Colour, shape and position of generated scenes, told by a small net."
    parser, _, score = trained.parser(description, "atedm scenes --single", steps=1500, batch=64)
    score.add_argument("--labels", required=True, help="labels.jsonl of the scenes whose prompts were drawn")
    return trained.parsed(parser)


def main():
    args = arguments()
    rows = train(args) if args.action == "train" else score(args)
    head = {"intervals": "95 %: Wilson's of shares, Bayesian bootstrap's of differences"}
    tables.write(args, head | {"replicates": args.replicates, "seed": args.seed}, rows, COLUMNS)


if __name__ == "__main__":
    main()
