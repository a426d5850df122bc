"""Writes a claim's tables into docs/src/claims.md, between its two markers. evaluation/claims.sh calls it.

    claims_table CLAIM --run RUN MEASURES [--run RUN MEASURES …] [--command COMMAND] [--page docs/src/claims.md]
    claims_table CLAIM --markdown FILE …            tables of the other programs of this package, without changes
    claims_table CLAIM --empty                      the table that says how to make it

RUN is the folder of `atedm ablate`. MEASURES holds the JSON files that the other programs wrote about it: unpruned.json and
held-out.json (quality.py), alignment.json, classifier.json, and model.json (`atedm inspect --json`). With several models there is a
`--run` for each, and the tables have a block of rows for each. No value in a table is typed by hand.
"""

import argparse
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]

from . import claims_curve, tables
from .claims_run import Run, label_of
from .layout import fail, read_text

QUALITY = [
    ("PSNR (dB)", "unpruned", "psnr", 1, 2),
    ("SSIM", "unpruned", "ssim", 1, 3),
    ("feature cosine", "unpruned", "feature_cosine", 1, 3),
    ("KID × 10³, unpruned", "unpruned", "kid", 1e3, 2),
    ("KID × 10³, held-out", "held-out", "kid", 1e3, 2),
]
CONTENT = [
    ("colour (%)", "classifier", "colour", 100, 1),
    ("shape (%)", "classifier", "shape", 100, 1),
    ("position (%)", "classifier", "position", 100, 1),
    ("all three (%)", "classifier", "object", 100, 1),
    ("caption of 33 (%)", "alignment", "top1_of_33", 100, 1),
    ("Δ cosine to caption", "alignment", "cosine_difference", 1, 4),
]
DIFFERENCES = [
    ("Δ PSNR (dB)", "unpruned", "psnr", 1, 2),
    ("Δ SSIM", "unpruned", "ssim", 1, 3),
    ("Δ feature cosine", "unpruned", "feature_cosine", 1, 3),
    ("Δ KID × 10³", "unpruned", "kid", 1e3, 2),
    ("Δ all three (points)", "classifier", "object", 100, 1),
    ("Δ caption of 33 (points)", "alignment", "top1_of_33", 100, 1),
]
"""Columns of the three tables: header, file, key, scale, digits."""


def measured(run, columns):
    """A list of cells for each point."""
    return [
        [tables.cell(run.row(file, point).get(key), scale, digits) for _, file, key, scale, digits in columns]
        for point in run.points
    ]


def differences(run):
    """Rows of the points that differ from the first one of their method, prompt by prompt."""
    firsts, rows = {}, []
    for point in run.points:
        first = firsts.setdefault(point["settings"]["method"], point)
        if first is not point:
            found = [run.difference(point, first, file, key) for _, file, key, *_ in DIFFERENCES]
            cells = [tables.cell(value, *column[3:]) for value, column in zip(found, DIFFERENCES)]
            rows.append([label_of(point), label_of(first), *cells])
    return rows


def cost_of(run, point):
    """A point's name, ratio, GFLOP and saving."""
    ratio = point["settings"]["options"].get("ratio")
    ratio = f"{ratio:.3f}" if isinstance(ratio, float) else "–"
    return [label_of(point), ratio, f"{run.costs[point['id']] * 1000:.3f}", f"{run.saved(point) * 100:.1f}"]


def blocks(runs, header, rows_of):
    """A table with a block of rows for each model."""
    rows = []
    for run in runs:
        found = rows_of(run)
        if found:
            rows.append([f"**{run.described()}**", *[""] * (len(header) - 1)])
            rows += found
    return tables.grid(header, rows) if rows else ""


def note_of(runs):
    """What a reader must know about the numbers."""
    parts = []
    for run in runs:
        singles = run.row("classifier", run.points[0]).get("n", {}).get("pictures", 0)
        reference = next(iter(run.documents["held-out"]["rows"]))["n"]["reference"]
        candidates = run.row("alignment", run.points[0])["n"]["candidates"]
        renders = [row for row in run.documents["classifier"]["rows"] if row["row"].startswith("renders, held-out")]
        told = ", ".join(f"{renders[0][head]['value'] * 100:.1f} % for {head}" for head in ("colour", "shape", "position"))
        parts.append(
            f"`{run.settings['model']}`: {run.prompts} prompts, {singles} of them of one object (the classifier reads only these); "
            f"{reference:,} held-out renders for KID; {candidates} captions to choose from; the classifier's accuracy on held-out "
            f"renders is {told}."
        )
    settings, head = runs[0].settings, runs[0].documents["unpruned"]
    engines = ", ".join(sorted({run.engine for run in runs}))
    parts.append(
        f"{settings['steps']} steps, guidance {settings['guidance_scale']:g}, {engines}. Brackets are 95 % intervals: "
        f"{head['bootstrap'].split(',')[0]} bootstrap over prompts, and Wilson's interval for the classifier's shares."
    )
    return " ".join(parts)


def tables_of(claim, runs):
    """The text of a claim: its tables, with a block for each model."""
    own = claims_curve.TEXTS.get(claim)
    parts = [own(runs)] if own else []
    head = ["", "ratio", "GFLOP", "saved (%)"]
    parts.append(blocks(runs, head + [column[0] for column in QUALITY], lambda run: [
        cost_of(run, point) + cells for point, cells in zip(run.points, measured(run, QUALITY))]))
    parts.append(blocks(runs, [""] + [column[0] for column in CONTENT], lambda run: [
        [label_of(point), *cells] for point, cells in zip(run.points, measured(run, CONTENT))]))
    parts.append(blocks(runs, ["", "minus"] + [column[0] for column in DIFFERENCES], differences))
    return "\n\n".join(part for part in [*parts, note_of(runs)] if part)


def write(page, claim, text):
    """Puts the text between the claim's markers."""
    page = pathlib.Path(page)
    pattern = re.compile(rf"(<!-- table: {re.escape(claim)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, times = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", read_text(page))
    if times != 1:
        fail(page, f"expected the markers of {claim!r} once, got {times}")
    tables.write_text(page, content)


def main():
    parser = argparse.ArgumentParser(description="Writes a claim's tables into its page.")
    parser.add_argument("claim", help="budgets, dsap, …")
    parser.add_argument("--run", nargs=2, action="append", metavar=("RUN", "MEASURES"), help="a run and its JSON files; repeatable")
    parser.add_argument("--command", help="what makes the tables again; default: evaluation/claims.sh CLAIM")
    parser.add_argument("--page", default=str(ROOT / "docs" / "src" / "claims.md"))
    parser.add_argument("--markdown", nargs="+", metavar="FILE", help="instead: finished tables")
    parser.add_argument("--empty", action="store_true", help="no values: how to make them")
    args = parser.parse_args()
    if [args.empty, args.run is not None, args.markdown is not None].count(True) != 1:
        fail("arguments", "expected --run, or --markdown, or --empty")
    command = args.command or f"evaluation/claims.sh {args.claim}"
    if args.empty:
        text = f"*Run `{command}`.*"
    elif args.markdown:
        text = "\n\n".join([f"`{command}`", *(read_text(path).strip() for path in args.markdown)])
    else:
        text = f"`{command}`\n\n{tables_of(args.claim, [Run.read(*pair) for pair in args.run])}"
    write(args.page, args.claim, text)


if __name__ == "__main__":
    main()
