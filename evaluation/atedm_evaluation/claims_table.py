"""Writes a claim's table into docs/src/claims.md, between its two markers. evaluation/claims.sh calls it.

    claims_table CLAIM --run RUN --measures FOLDER [--page docs/src/claims.md]
    claims_table CLAIM --markdown FILE …            tables of the other programs of this package, without changes
    claims_table CLAIM --empty                      the table that says how to make it

RUN is the folder of `atedm ablate`. FOLDER holds the JSON files that the other programs of this package wrote about it:
unpruned.json and held-out.json (quality.py), alignment.json, classifier.json. No value in a table is typed by hand.
"""

import argparse
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

from . import measures as statistics
from . import tables
from .layout import fail, read_lines, read_text

QUALITY = [
    ("PSNR (dB)", "unpruned", "psnr", 1, 2),
    ("Δ PSNR (dB)", "paired", "psnr_difference", 1, 2),
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
"""Columns of the two halves of a table: header, file, key, scale, digits."""


def read_json(path):
    """A JSON file. If it is wrong, ends the program with one line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        fail(path, str(error))


def label_of(point):
    """A point's name with its budget in GFLOP."""
    varied = {key: value for key, value in point["varied"].items() if key != "budget_tflops"}
    words = [point["grid"] or point["settings"]["method"]]
    if "budget_tflops" in point["varied"]:
        words.append(f"{float(point['varied']['budget_tflops']) * 1000:.2f} GFLOP")
    words += [f"{key} = {value}" for key, value in varied.items()]
    return ", ".join(words)


def paired_differences(points, records, replicates, seed):
    """PSNR minus that of the first point of the same method, prompt by prompt: rows by point. A picture that equals the unpruned one
    has no PSNR, so its prompt is left out."""
    psnr = {}
    for record in records:
        psnr.setdefault(record["point"], {})[record["prompt_id"]] = (record["distances"] or {}).get("psnr")
    firsts, rows = {}, {}
    for point in points:
        own = psnr[point["id"]]
        first = firsts.setdefault(point["settings"]["method"], own)
        pairs = [(own[prompt], first[prompt]) for prompt in sorted(own) if None not in (own[prompt], first[prompt])]
        if own is not first and pairs:
            weights = statistics.bootstrap_weights(len(pairs), replicates, seed)
            means = statistics.weighted_means([a - b for a, b in pairs], weights)
            rows[point["id"]] = {"psnr_difference": statistics.interval(means)}
    return rows


def half(points, found, columns):
    """Markdown rows of some columns, without the frame: one list of cells for each point."""
    rows = []
    for point in points:
        cells = []
        for _, file, key, scale, digits in columns:
            row = found[file].get(point["id"], {})
            cells.append(tables.cell(row.get(key), scale, digits))
        rows.append(cells)
    return rows


def grid(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def table_of(claim, run, measures):
    """The table of a run."""
    run, measures = pathlib.Path(run), pathlib.Path(measures)
    points = read_json(run / "run.json")["points"]
    documents = {name: read_json(measures / f"{name}.json") for name in ("unpruned", "held-out", "alignment", "classifier")}
    found = {name: {row["row"]: row for row in document["rows"]} for name, document in documents.items()}
    costs, pictures = {}, {}
    records = read_lines(run / "results.jsonl", ["point", "prompt_id", "flops", "distances"])
    for record in records:
        costs.setdefault(record["point"], []).append(record["flops"]["mean_tflop"])
        pictures[record["point"]] = pictures.get(record["point"], 0) + 1
    first = points[0]
    counts = sorted(set(pictures.values()))
    if len(counts) != 1 or set(pictures) != {point["id"] for point in points}:
        fail(run / "results.jsonl", "expected as many pictures of every point: finish the run first")
    found["paired"] = paired_differences(points, records, *(documents["unpruned"][key] for key in ("replicates", "seed")))
    whole = [
        [label_of(point), f"{point['settings']['options']['ratio']:.3f}" if "ratio" in point["settings"]["options"] else "–",
         f"{sum(costs[point['id']]) / len(costs[point['id']]) * 1000:.3f}"]
        for point in points
    ]
    parts = []
    for columns in (QUALITY, CONTENT):
        header = ["", "ratio", "GFLOP"] if columns is QUALITY else [""]
        rows = [left[: len(header)] + right for left, right in zip(whole, half(points, found, columns))]
        parts.append(grid(header + [column[0] for column in columns], rows))
    settings = first["settings"]
    singles = found["classifier"].get(first["id"], {}).get("n", {}).get("pictures", 0)
    reference = next(iter(found["held-out"].values()))["n"]["reference"]
    candidates = found["alignment"][first["id"]]["n"]["candidates"]
    renders = [row for key, row in found["classifier"].items() if key.startswith("renders, held-out")]
    own = ""
    if renders:
        told = ", ".join(f"{renders[0][head]['value'] * 100:.1f} % for {head}" for head in ("colour", "shape", "position"))
        own = f" The classifier's accuracy on {renders[0]['n']['pictures']:,} held-out renders is {told}."
    note = (
        f"N = {counts[0]} prompts a row. {singles} of them have one object, and the classifier reads only these. KID compares with "
        f"the unpruned pictures of the same noise, and with {reference:,} held-out renders. The caption score chooses from "
        f"{candidates} captions. The model is `{settings['model']}`, with {settings['steps']} steps and guidance "
        f"{settings['guidance_scale']:g}. Brackets are 95 % intervals: {documents['unpruned']['bootstrap'].split(',')[0]} bootstrap "
        f"over prompts, and Wilson's interval for the classifier's shares.{own}"
    )
    command = f"N={counts[0]} evaluation/claims.sh {claim}"
    return f"`{command}`\n\n{parts[0]}\n\n{parts[1]}\n\n{note}"


def write(page, claim, text):
    """Puts the text between the claim's markers."""
    page = pathlib.Path(page)
    pattern = re.compile(rf"(<!-- table: {re.escape(claim)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, times = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", read_text(page))
    if times != 1:
        fail(page, f"expected the markers of {claim!r} once, got {times}")
    try:
        page.write_text(content, encoding="utf-8")
    except OSError as error:
        fail(page, error.strerror)


def main():
    parser = argparse.ArgumentParser(description="Writes a claim's table into its page.")
    parser.add_argument("claim", help="budgets, dsap, …")
    parser.add_argument("--run", help="folder of `atedm ablate`")
    parser.add_argument("--measures", help="folder of the JSON files")
    parser.add_argument("--page", default=str(ROOT / "docs" / "src" / "claims.md"))
    parser.add_argument("--markdown", nargs="+", metavar="FILE", help="instead: finished tables")
    parser.add_argument("--empty", action="store_true", help="no values: how to make them")
    args = parser.parse_args()
    if [args.empty, args.run is not None, args.markdown is not None].count(True) != 1 or (args.run is None) != (args.measures is None):
        fail("arguments", "expected --run and --measures, or --markdown, or --empty")
    command = f"evaluation/claims.sh {args.claim}"
    if args.empty:
        text = f"*Run `{command}`.*"
    elif args.markdown:
        text = "\n\n".join([f"`{command}`", *(read_text(path).strip() for path in args.markdown)])
    else:
        text = table_of(args.claim, args.run, args.measures)
    write(args.page, args.claim, text)


if __name__ == "__main__":
    main()
