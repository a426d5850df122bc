"""Folders of pictures as the program writes them: scenes (`atedm scenes`), points of an export (`atedm eval export`), and runs
(`atedm ablate`). Errors end the program with one line."""

import json
import pathlib
from dataclasses import dataclass

import numpy as np


def fail(place, reason):
    """Ends the program with one line that names the file, folder or flag."""
    raise SystemExit(f"error: {place}: {reason}")


def pictures_under(folder):
    """All PNG files of a folder and the folders in it, in order. Names are their paths in it without `.png`. Masks of scenes (below
    a folder `masks`) and unfinished files (`.atedm-…`) do not count as pictures."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        fail(folder, "expected a folder of pictures")
    found = {}
    for path in sorted(folder.rglob("*.png")):
        place = path.relative_to(folder)
        if "masks" not in place.parts[:-1] and not path.name.startswith("."):
            found[place.with_suffix("").as_posix()] = path
    return found or fail(folder, "expected PNG pictures in it, got none")


def read_picture(path):
    """A picture as RGB, 8 bits, `[height, width, 3]`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        fail(path, error.strerror if isinstance(error, FileNotFoundError) else "expected a whole PNG picture")


def read_text(path):
    """A text file in UTF-8."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(path, getattr(error, "strerror", None) or "expected text in UTF-8")


def read_lines(path, fields):
    """Objects of a `.jsonl` file, each with the named fields. A last line without its end, as a kill leaves it, is dropped."""
    text = read_text(path)
    lines = text.split("\n")
    objects = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            fail(path, f"line {number}: {error}")
        if not isinstance(objects[-1], dict) or not set(fields) <= objects[-1].keys():
            fail(path, f"line {number}: expected an object with {', '.join(fields)}")
    return objects


def captions_of(folder, names, file=None):
    """Captions of the named pictures, from a file or else from `captions.txt` in the folder. The file is `.jsonl` with id and prompt,
    or has lines of a name, a tab and a caption (a header `filepath`, `title` is skipped), or has one caption on each line, in the
    pictures' order."""
    path = pathlib.Path(file) if file else pathlib.Path(folder) / "captions.txt"
    if not path.is_file():
        fail(path, "expected the pictures' captions in this file" + ("" if file else "; --captions names another"))
    if path.suffix == ".jsonl":
        by_name = {line["id"]: line["prompt"] for line in read_lines(path, ["id", "prompt"])}
    else:
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if not any("\t" in line for line in lines):
            if len(lines) != len(names):
                fail(path, f"expected a caption for each of {len(names)} pictures, got {len(lines)}")
            return lines
        if not all("\t" in line for line in lines):
            fail(path, "expected a name, a tab and a caption on every line, or a caption alone on every line")
        pairs = [line.split("\t", 1) for line in lines if line.split("\t", 1) != ["filepath", "title"]]
        by_name = {pathlib.PurePosixPath(name).name.removesuffix(".png"): caption for name, caption in pairs}
    missing = [name for name in names if name.rsplit("/", 1)[-1] not in by_name]
    if missing:
        fail(path, f"expected a caption of {missing[0]!r}")
    return [by_name[name.rsplit("/", 1)[-1]] for name in names]


@dataclass
class Cell:
    """A point of a run: its pictures and captions by the prompts' ids."""

    id: str
    label: str
    reference: str | None
    pictures: dict[str, pathlib.Path]
    captions: dict[str, str]


def cells_of(run):
    """The points of a run's folder in the order of its grid, each with the pictures that are finished."""
    run = pathlib.Path(run)
    for name in ("run.json", "results.jsonl"):
        if not (run / name).is_file():
            fail(run / name, "expected the folder of `atedm ablate` (put shards together first: `atedm ablate merge`)")
    try:
        points = json.loads(read_text(run / "run.json"))["points"]
        cells = {p["id"]: Cell(p["id"], p["label"], p["reference"], {}, {}) for p in points}
    except (json.JSONDecodeError, KeyError, TypeError):
        fail(run / "run.json", "expected points with id, label and reference")
    for record in read_lines(run / "results.jsonl", ["point", "prompt_id", "prompt", "image"]):
        cell = cells.get(record["point"]) or fail(run / "results.jsonl", f"unknown point {record['point']!r}")
        cell.pictures[record["prompt_id"]] = run / record["image"]
        cell.captions[record["prompt_id"]] = record["prompt"]
    for cell in cells.values():
        if not cell.pictures:
            fail(run / "results.jsonl", f"point {cell.id!r} has no finished picture yet")
    return list(cells.values())
