"""The command line of measures that are trained on rendered scenes: `train SCENES …`, then `score PICTURES …` or
`score --ablation RUN …`."""

import argparse

from . import tables
from .layout import fail


def parser(description, scenes, steps, batch):
    """The parser with the flags that all such programs have, and its two actions for those of one alone: `(parser, train,
    score)`. `scenes` are the flags of `atedm scenes` that the training wants."""
    whole = argparse.ArgumentParser(description=description)
    actions = whole.add_subparsers(dest="action", required=True)
    train = actions.add_parser("train", help="train on rendered scenes")
    train.add_argument("scenes", help=f"folder of `{scenes}`")
    train.add_argument("--held-out", required=True, help=f"folder of `{scenes} --split held-out`")
    train.add_argument("--output", required=True, help="model to write, .npz")
    train.add_argument("--steps", type=int, default=steps, help=f"of {batch} pictures (default {steps})")
    score = actions.add_parser("score", help="score pictures")
    score.add_argument("pictures", nargs="?", help="folder of pictures")
    score.add_argument("--model", required=True, help="file of `train`")
    score.add_argument("--ablation", metavar="RUN", help="folder of `atedm ablate`: a row a point")
    score.add_argument("--reference", help="with --ablation: the point of the differences (default: the unpruned point)")
    for action in (train, score):
        tables.add_arguments(action)  # --seed is training's too
    return whole, train, score


def parsed(whole):
    """The arguments; ends the program where those of all such programs are out of range or do not fit together."""
    args = whole.parse_args()
    tables.check(args)
    if args.action == "train":
        if args.steps < 1:
            fail("--steps", f"expected at least 1, got {args.steps}")
        if not args.output.endswith(".npz"):
            fail(args.output, "expected a name that ends in .npz")
    elif (args.ablation is None) == (args.pictures is None):
        fail("arguments", "expected PICTURES or --ablation RUN")
    elif args.reference and args.ablation is None:
        fail("--reference", "expected with --ablation only")
    return args
