"""How alike masks are, from step to step and between the halves of guidance.

    overlap.py RUN

RUN is a folder of `atedm ablate` whose file names prompts in `masks`. A row is a point and a grid of tokens, over all layers that
prune the whole stream of their blocks there. The columns are:

- kept: the share of tokens that a step keeps. Two random masks have this share of their kept tokens in common;
- kept in the next step: of the tokens that a step keeps, the share that the next step also keeps, if it keeps the same number;
- kept in the other half: of the tokens that one half of guidance keeps in a step, the share that the other half also keeps;
- never kept: the share of tokens that no step keeps, of those in which their layer prunes, over both halves separately.

Intervals are of 95 %, by the Bayesian bootstrap over prompts.
"""

import argparse
import pathlib

import numpy as np

from . import masks
from . import measures
from . import tables
from .layout import cells_of, fail


def kept_of(file):
    """By grid (height, width): for each layer its masks `[rows, tokens]` by step."""
    found = {}
    for decision in masks.decisions_of(file):
        if decision.whole:
            found.setdefault(decision.grid, {}).setdefault(decision.layer, {})[decision.step] = decision.kept
    return found


def counts_of(layers):
    """(part, whole) of every share, `[4, 2]`, from the layers of one grid, each with its masks by step."""
    counts = np.zeros((4, 2), dtype=np.int64)
    for steps in layers.values():
        for step, mask in steps.items():
            counts[0] += mask.sum(), mask.size
            after = steps.get(step + 1)
            if after is not None and after.sum() == mask.sum():
                counts[1] += (mask & after).sum(), mask.sum()
            if len(mask) == 2:
                counts[2] += 2 * (mask[0] & mask[1]).sum(), mask.sum()
        never = ~np.any(list(steps.values()), axis=0)
        counts[3] += never.sum(), never.size
    return counts


COLUMNS = [
    ("kept (%)", "kept", 100, 1),
    ("kept in the next step (%)", "next", 100, 1),
    ("kept in the other half (%)", "half", 100, 1),
    ("never kept (%)", "never", 100, 1),
]


def rows_of(run, seed, replicates):
    """Rows, one for each grid of a point that pruned."""
    rows = []
    for cell in cells_of(run):
        folder = pathlib.Path(run) / "masks" / cell.id
        found = [kept_of(file) for file in sorted(folder.glob("*.safetensors"))]
        for grid in sorted({grid for layers in found for grid in layers}, reverse=True):
            if any(grid not in layers for layers in found):
                fail(folder, f"expected pruned tokens of {grid[0]} x {grid[1]} of every prompt")
            counts = np.stack([counts_of(layers[grid]) for layers in found]).astype(np.float64)
            weights = measures.bootstrap_weights(len(found), replicates, seed)
            row = {"row": cell.id, "label": f"{cell.label}, {grid[0]} × {grid[1]}", "reference": None, "grid": list(grid)}
            row["n"] = {"pictures": len(found)}
            for share, (_, key, _, _) in enumerate(COLUMNS):
                if counts[:, share, 1].all():
                    row[key] = measures.interval((weights @ counts[:, share, 0]) / (weights @ counts[:, share, 1]))
            rows.append(row)
    return rows or fail(pathlib.Path(run) / "masks", "expected masks of prompts that the run's file names in `masks`")


def main():
    parser = argparse.ArgumentParser(description="How alike masks are, from step to step and between the halves of guidance.")
    parser.add_argument("run", help="folder of `atedm ablate`, with masks")
    tables.add_arguments(parser)
    args = parser.parse_args()
    tables.check(args)
    rows = rows_of(args.run, args.seed, args.replicates)
    head = {"bootstrap": "Bayesian, 95 %, over prompts", "replicates": args.replicates, "run": args.run}
    tables.write(args, head, rows, COLUMNS)


if __name__ == "__main__":
    main()
