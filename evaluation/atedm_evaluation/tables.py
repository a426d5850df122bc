"""Writes measures as JSON and as rows of Markdown. Also has the flags that all programs of this package share."""

import csv
import io
import json
import pathlib

from .layout import fail


def add_arguments(parser):
    """Flags of output and bootstrap."""
    parser.add_argument("--json", metavar="FILE", help="write all values here")
    parser.add_argument("--markdown", metavar="FILE", help="write the table here too (it is printed in any case)")
    parser.add_argument("--replicates", type=int, default=1000, help="bootstrap replicates (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")


def check(args):
    """Ends the program if one of these flags is out of range."""
    for flag, value, least in [("--replicates", args.replicates, 2), ("--seed", args.seed, 0), ("--threads", args.threads, 1)]:
        if value < least:
            fail(flag, f"expected at least {least}, got {value}")


def cell(measure, scale, digits):
    """A value with its interval: `1.23 [1.01, 1.44]`. If there is no value, the text that replaces it."""
    if measure is None:
        return "–"
    if measure["value"] is None:
        return measure.get("note") or f"all {measure['equal']} equal"
    text = f"{measure['value'] * scale:.{digits}f} [{measure['low'] * scale:.{digits}f}, {measure['high'] * scale:.{digits}f}]"
    remarks = [measure["note"]] if "note" in measure else []
    remarks += [f"{measure['equal']} of {measure['equal'] + measure['n']} equal"] if measure.get("equal") else []
    return text + (f" ({'; '.join(remarks)})" if remarks else "")


def markdown(rows, columns):
    """The table. Columns that no row has are left out; pipes in labels are escaped."""
    columns = [column for column in columns if any(column[1] in row for row in rows)]
    lines = ["| pictures | against | N | " + " | ".join(column[0] for column in columns) + " |"]
    lines.append("|" + "---|" * (3 + len(columns)))
    for row in rows:
        n = row["n"]
        others = [f" / {n['reference']:,}"] if "reference" in n else []
        others += [f", {n[what]:,} {what}" for what in ("pairs", "candidates", "skipped") if what in n]
        count = f"{n['pictures']:,}" + "".join(others)
        cells = [row["label"], row["reference"] or "–", count]
        cells += [cell(row.get(key), scale, digits) for _, key, scale, digits in columns]
        lines.append("| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |")
    return "\n".join(lines) + "\n"


def grid(header, rows):
    """A Markdown table of finished cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def write(args, head, rows, columns):
    """Prints the table, and writes the files that the flags name."""
    table = markdown(rows, columns)
    print(table, end="")
    document = json.dumps(head | {"rows": rows}, indent=1, ensure_ascii=False) + "\n"
    for path, text in [(args.markdown, table), (args.json, document)]:
        if path:
            write_text(path, text)


def write_text(path, text):
    """Writes a file and the folders above it."""
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        fail(path, error.strerror)


def write_points(path, rows, keys):
    """Writes some measures of a run's points as CSV that `atedm report --metrics` reads. `keys` are columns by the rows' keys. A
    value that is not reported is empty, and a measure that no row has is left out."""
    keys = {key: column for key, column in keys.items() if any((row.get(key) or {}).get("value") is not None for row in rows)}
    lines = [[row["row"]] + [(row.get(key) or {}).get("value") for key in keys] for row in rows]
    write_csv(path, ["point", *keys.values()], lines)


def write_csv(path, heads, lines):
    """A file of comma-separated values. None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *lines])
    write_text(path, text.getvalue())


def write_pictures(path, column, values):
    """Writes a value for each picture of a run as CSV that `atedm report --metrics` reads. `values` are by point and prompt. The
    column's name says which direction is better: `feature_cosine:higher`."""
    lines = [[point, prompt, float(value)] for point, own in values.items() for prompt, value in own.items()]
    write_csv(path, ["point", "prompt", column], lines)
