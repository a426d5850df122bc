"""The tables at the head of the claims `curve` and `level`: what a method loses, against tokens per picture and depth of blocks."""

from . import tables
from .claims_run import label_of

COLUMNS = [
    ("PSNR to the unpruned picture (dB)", "unpruned", "psnr", 1, 1),
    ("KID × 10³ to the unpruned pictures", "unpruned", "kid", 1e3, 1),
    ("Colour, shape and position lost (points)", "classifier", "object_difference", -100, 1),
    ("Right captions of 33 lost (points)", "alignment", "top1_of_33_difference", -100, 1),
]
"""Title, file, key, scale, digits of the tables."""


def short(run, point, column):
    """A measure with its interval. A scale below 0 turns a difference into a loss."""
    _, file, key, scale, digits = column
    value = run.row(file, point).get(key)
    if value is not None and scale < 0 and value["value"] is not None:
        value = {**value, "value": 0 - value["value"], "low": 0 - value["high"], "high": 0 - value["low"]}
    return tables.cell(value, abs(scale), digits)


def by_budget(runs):
    """A table for each measure. Rows are methods; columns are models and budgets."""
    budgets = list(dict.fromkeys(str(p["varied"]["budget_tflops"]) for run in runs for p in run.points if "budget_tflops" in p["varied"]))
    names = list(dict.fromkeys(p["grid"] for run in runs for p in run.points if "budget_tflops" in p["varied"]))
    parts = []
    for column in COLUMNS:
        header = [column[0]] + [f"{run.described()}: {budget} of the cost" for run in runs for budget in budgets]
        rows = []
        for name in names:
            cells = [name]
            for run in runs:
                for budget in budgets:
                    found = [p for p in run.points if p["grid"] == name and str(p["varied"].get("budget_tflops")) == budget]
                    cells.append(short(run, found[0], column) if found else "out of reach")
            rows.append(cells)
        parts.append(tables.grid(header, rows))
    return "\n\n".join(parts)


def by_own_cost(runs):
    """Methods whose cost no ratio decides, and stacks: a block of rows for each model."""
    header = ["", "saved (%)"] + [column[0] for column in COLUMNS]
    rows = []
    for run in runs:
        rows.append([f"**{run.described()}**", *[""] * (len(header) - 1)])
        for point in run.points:
            if "budget_tflops" not in point["varied"] and point["settings"]["method"] != "none":
                cells = [short(run, point, column) for column in COLUMNS]
                rows.append([label_of(point), f"{run.saved(point) * 100:.1f}", *cells])
    return tables.grid(header, rows)


def by_shape(runs):
    """Half of the tokens at one level: rows are sorted by method, tokens and depth."""
    header = ["", "tokens", "depth", "model", "saved (%)"] + [column[0] for column in COLUMNS]
    found = []
    for run in runs:
        levels = run.levels()
        for point in run.points:
            for level in point["varied"].get("levels") or []:
                tokens, depth = levels[level]
                cells = [short(run, point, column) for column in COLUMNS]
                found.append((point["grid"], tokens, depth, [run.name, f"{run.saved(point) * 100:.1f}", *cells]))
    order = list(dict.fromkeys(name for name, *_ in found))
    found.sort(key=lambda row: (order.index(row[0]), row[1], row[2]))
    return tables.grid(header, [[name, str(tokens), str(depth), *cells] for name, tokens, depth, cells in found])


TEXTS = {
    "curve": lambda runs: f"{by_budget(runs)}\n\n{by_own_cost(runs)}",
    "level": by_shape,
}
"""What a claim has in front of its other tables."""
