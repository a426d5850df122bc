"""The share of pruned tokens that fall on background, by exact masks.

    background.py SCENES --output target/background [--atedm target/release/atedm] [--model DIR] [--count 64]

SCENES is a folder of `atedm scenes --split held-out`: pictures, masks/, prompts.tsv. The program adds noise to each real picture,
up to some steps of the schedule (image to image, `--init-image`). It looks only at the first step of each run. In that step, the
U-Net sees the real picture under noise, so the masks of the scene are exact. A token is background if less than half of its patch
is object (the mask's mean over it). A row is a method, a strength and a level of resolution (its grid of tokens), over all layers
that prune there. The strength is the share of the schedule that is left, so it sets the noise. The columns are:

- background among pruned: the share of pruned tokens that are background;
- background among all: the same share of all tokens that could be pruned, which is that of random pruning; and the difference;
- object tokens kept: the share of object tokens that are kept; and tokens kept: the share of all tokens, which is what random
  pruning keeps of the object.

Intervals are of 95 %, by the Bayesian bootstrap over scenes. The files of masks stay in --output and are not made again. So a
stopped run continues, and the table can be printed again. The prompt runs alone (guidance scale 1): its half decides for itself,
and the first step does not depend on the scale.
"""

import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import re
import subprocess
import sys

import numpy as np

from . import masks
from . import measures
from . import tables
from .layout import fail, read_picture, read_text

METHODS = [
    "at-edm=at-edm:tau=0",
    "at-edm-dagger=at-edm-dagger:tau=0",
    "random scorer=at-edm:tau=0,scorer=random",
    "norm scorer=at-edm:tau=0,scorer=token-norm",
    "cross scores=at-edm:tau=0,score=cross",
]
"""The default methods. They have τ = 0, because the strength must not change which blocks prune."""


def method_of(text):
    """A label, a method's name and its options, from `LABEL=NAME[:KEY=VALUE,…]`."""
    label, equals, rest = text.partition("=")
    name, _, options = rest.partition(":")
    if not (label and equals and name):
        fail("--method", f"expected LABEL=NAME[:KEY=VALUE,…], got {text!r}")
    return label, name, options


def prompts_of(scenes, count):
    """Prompts of the first scenes by id. Each scene must have a picture and a mask."""
    path = pathlib.Path(scenes) / "prompts.tsv"
    lines = [line.split("\t", 1) for line in read_text(path).splitlines() if line.strip()][:count]
    if not lines or any(len(line) != 2 for line in lines):
        fail(path, "expected lines of an id, a tab and a prompt")
    for id, _ in lines:
        for file in (path.parent / f"{id}.png", path.parent / "masks" / f"{id}.png"):
            if not file.is_file():
                fail(file, "expected the picture and the mask of a scene of `atedm scenes`")
    return dict(lines)


def first_step(steps, strength):
    """The first step that runs on a picture. The last ⌊strength · steps⌋ steps of the schedule run."""
    return steps - int(steps * strength)


def background_of(mask, height, width, path):
    """Which tokens `[height · width]` of a grid are background. The mask `[pixels down, pixels across]` has 0 for background and
    255 for object."""
    down, across = mask.shape
    if down % height or across % width:
        fail(path, f"expected a picture that a grid of {height} x {width} tokens divides, got {across} x {down} pixels")
    patches = mask.reshape(height, down // height, width, across // width)
    return (patches.mean(axis=(1, 3)) < 127.5).reshape(-1)


def counts_of(file, mask, step, mask_path):
    """Counts by grid (height, width): tokens pruned on background, tokens pruned, background tokens, and all tokens. They are of the
    pruning decisions of one step in a file of masks, over its layers and batch rows."""
    found = {}
    for decision in masks.decisions_of(file, step):
        on_background = background_of(mask, *decision.grid, mask_path)[decision.positions]
        row = [(~decision.kept & on_background).sum(), (~decision.kept).sum(), on_background.sum(), decision.kept.size]
        found[decision.grid] = found.get(decision.grid, 0) + np.array(row)
    return found


def command_of(args, method, strength, scene, prompt, seed, file):
    """The command that writes a file of masks."""
    _, name, options = method
    picture = pathlib.Path(args.scenes) / f"{scene}.png"
    command = [args.atedm, "generate", "--prompt", prompt, "--init-image", picture, "--strength", strength]
    command += ["--steps", args.steps, "--guidance-scale", 1, "--seed", seed, "--prune", name, "--threads", args.threads, "--quiet"]
    command += ["--model", args.model] if args.model else []
    command += ["--prune-opt", options] if options else []
    return [str(part) for part in command + ["--masks-out", file, "--output", file.with_suffix(".png")]]


def settings(args):
    """The settings that all files of masks of a folder depend on. The seed of a scene's noise is --seed plus the scene's number."""
    prompts = hashlib.sha256(read_text(pathlib.Path(args.scenes) / "prompts.tsv").encode()).hexdigest()
    return {"model": args.model, "prompts": prompts, "steps": args.steps, "seed": args.seed}


def prepare(args, methods):
    """The folder of the files of masks. It stores the settings of its files, and other settings end the program."""
    output, wanted = pathlib.Path(args.output), settings(args)
    path, known = output / "settings.json", {}
    if path.is_file():
        try:
            before = json.loads(read_text(path))
            known = before.pop("methods")
            same = before == wanted and all(known.get(label, rest) == rest for label, *rest in methods)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            fail(path, "expected the settings of background.py")
        if not same:
            fail(path, "the folder has masks of other settings: give another --output")
    document = wanted | {"methods": known | {label: rest for label, *rest in methods}}
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        fail(path, error.strerror)


def folder_of(label):
    """The name of a method's folder."""
    return re.sub(r"[^\w.-]+", "-", label)


def file_of(args, label, strength, scene):
    """The path of a run's masks."""
    return pathlib.Path(args.output) / folder_of(label) / f"strength-{strength:g}" / f"{scene}.safetensors"


def make(args, methods, prompts):
    """Makes the files of masks that do not exist yet. The program writes each file completely or not at all."""
    jobs = []
    for method in methods:
        for strength in args.strengths:
            for number, (scene, prompt) in enumerate(prompts.items()):
                file = file_of(args, method[0], strength, scene)
                if not file.is_file():
                    jobs.append((command_of(args, method, strength, scene, prompt, args.seed + number, file), file))

    def run(job):
        command, file = job
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"error: {args.atedm}: {error.strerror}"
        file.with_suffix(".png").unlink(missing_ok=True)  # the picture is not needed
        if done.returncode or not file.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"{last.removeprefix('error: ')} (from {file})"
        return None

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for number, failure in enumerate(pool.map(run, jobs), 1):
            if failure:
                pool.shutdown(cancel_futures=True)
                fail(args.atedm, failure)
            if number % 50 == 0 or number == len(jobs):
                print(f"{number} of {len(jobs)} runs", file=sys.stderr)


def ratio(counts, top, bottom, weights):
    """The share Σ top / Σ bottom over scenes, in every replicate; `counts` are `[scenes, 4]`."""
    return (weights @ counts[:, top]) / (weights @ counts[:, bottom])


def row_of(label, counts, weights):
    """A row from counts `[scenes, 4]` (pruned on background, pruned, background, tokens) and bootstrap weights `[rows, scenes]`."""
    extra = np.stack([counts[:, 3] - counts[:, 2], counts[:, 1] - counts[:, 0], counts[:, 3] - counts[:, 1]], axis=1)
    counts = np.concatenate([counts, extra], axis=1).astype(np.float64)  # and object, pruned object, kept
    pruned, chance = ratio(counts, 0, 1, weights), ratio(counts, 2, 3, weights)
    row = {"row": label, "label": label, "reference": "chance", "n": {"pictures": len(counts)}}
    row["tokens"] = {"pruned": int(counts[:, 1].sum()), "all": int(counts[:, 3].sum())}
    row |= {"pruned": measures.interval(pruned), "chance": measures.interval(chance)}
    row["difference"] = measures.interval(pruned - chance)
    if counts[:, 4].all():
        row["object_kept"] = measures.interval(1 - ratio(counts, 5, 4, weights))
    return row | {"kept": measures.interval(ratio(counts, 6, 3, weights))}


def rows_of(args, methods, prompts):
    """Rows, one for each method, strength and level."""
    paths = {scene: pathlib.Path(args.scenes) / "masks" / f"{scene}.png" for scene in prompts}
    pictures = {scene: read_picture(path)[..., 0].astype(np.float64) for scene, path in paths.items()}
    weights, rows = measures.bootstrap_weights(len(prompts), args.replicates, args.seed), []
    for label, _, _ in methods:
        for strength in args.strengths:
            step = first_step(args.steps, strength)
            found = [counts_of(file_of(args, label, strength, scene), pictures[scene], step, paths[scene]) for scene in prompts]
            for grid in sorted({grid for counts in found for grid in counts}, reverse=True):
                if any(grid not in counts or counts[grid][1] == 0 for counts in found):
                    fail(f"{label}, strength {strength:g}", f"expected pruned tokens of {grid[0]} x {grid[1]} in every scene")
                counts = np.stack([counts[grid] for counts in found])
                row = row_of(f"{label}, strength {strength:g}, {grid[0]} × {grid[1]}", counts, weights)
                rows.append(row | {"method": label, "strength": strength, "step": step, "grid": list(grid)})
            if not any(found):
                fail(f"{label}, strength {strength:g}", f"no token was pruned at step {step} of {args.steps}")
    return rows


COLUMNS = [
    ("background among pruned (%)", "pruned", 100, 1),
    ("background among all (%)", "chance", 100, 1),
    ("Δ (points)", "difference", 100, 1),
    ("object tokens kept (%)", "object_kept", 100, 1),
    ("tokens kept (%)", "kept", 100, 1),
]


def arguments():
    parser = argparse.ArgumentParser(description="The share of pruned tokens that fall on background, by exact masks.")
    parser.add_argument("scenes", help="folder of `atedm scenes --split held-out`")
    parser.add_argument("--output", required=True, help="folder for the files of masks; a run goes on with what is there")
    parser.add_argument("--atedm", default="target/release/atedm", help="the program (default target/release/atedm)")
    parser.add_argument("--model", help="checkpoint (default: the program's built-in model)")
    parser.add_argument("--count", type=int, default=64, help="scenes, from the first (default 64)")
    parser.add_argument("--steps", type=int, default=10, help="steps of the schedule (default 10; few are cheap)")
    parser.add_argument("--strengths", default="0.2,0.4,0.6,0.8", help="shares of the schedule (default 0.2,0.4,0.6,0.8)")
    parser.add_argument("--method", action="append", metavar="LABEL=NAME[:OPTIONS]", help="instead of: " + "; ".join(METHODS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each of --threads threads (default 1)")
    tables.add_arguments(parser)
    args = parser.parse_args()
    tables.check(args)
    try:
        args.strengths = [float(part) for part in args.strengths.split(",")]
    except ValueError:
        fail("--strengths", f"expected shares such as 0.4,0.8, got {args.strengths!r}")
    for flag, value in [("--count", args.count), ("--steps", args.steps), ("--jobs", args.jobs)]:
        if value < 1:
            fail(flag, f"expected at least 1, got {value}")
    for strength in args.strengths:
        if not 0 < strength <= 1 or int(args.steps * strength) < 1:
            fail("--strengths", f"expected shares of {args.steps} steps that leave at least one, at most 1, got {strength:g}")
    return args


def main():
    args = arguments()
    methods = [method_of(text) for text in args.method or METHODS]
    if len({folder_of(label) for label, _, _ in methods}) < len(methods):
        fail("--method", "expected labels that differ in more than signs")
    prompts = prompts_of(args.scenes, args.count)
    prepare(args, methods)
    make(args, methods, prompts)
    rows = rows_of(args, methods, prompts)
    head = {"bootstrap": "Bayesian, 95 %, over scenes", "replicates": args.replicates} | settings(args)
    tables.write(args, head | {"methods": {label: rest for label, *rest in methods}}, rows, COLUMNS)


if __name__ == "__main__":
    main()
