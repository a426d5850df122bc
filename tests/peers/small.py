"""The speed of small pictures: from the program's start to a picture of one step, and the time of an image by batch and threads.

    python3 tests/peers/small.py [--atedm target/release/atedm] [--out docs/src/benchmarks.md]

Needs no Python package. The model is the built-in one unless --model names another. All settings take turns in every round, and the
table has medians over the rounds. With --out, the script replaces the page's part between `<!-- small -->` and the next
`<!-- end -->`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import processor, write_page

PROMPT = "a large red star on the left"


def read_arguments():
    parser = argparse.ArgumentParser(description="The speed of small pictures.")
    parser.add_argument("--atedm", default="target/release/atedm", help="the program (default target/release/atedm)")
    parser.add_argument("--model", default="atedm-shapes", help="default atedm-shapes, the built-in one")
    parser.add_argument("--backend", default="candle")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 4, 8], help="guided images at once; each has two rows")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--methods", default="at-edm-fast,tome-c")
    parser.add_argument("--out", type=Path, help="page with the markers")
    return parser.parse_args()


def run(command):
    """What a command prints. A failure ends the script with its last line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout


def engine(arguments, threads):
    return ["--model", arguments.model, "--backend", arguments.backend, "--dtype", arguments.dtype, "--threads", str(threads)]


def first_picture(arguments, folder):
    """Seconds of the whole program for a picture of one step."""
    command = [arguments.atedm, "generate", *engine(arguments, max(arguments.threads)), "--prompt", PROMPT, "--steps", "1"]
    begin = time.perf_counter()
    run([*command, "--output", str(folder / "picture.png"), "--quiet"])
    return time.perf_counter() - begin


def step(arguments, folder, images, threads):
    """The report of one round of `atedm bench`."""
    report = folder / "report.json"
    command = [arguments.atedm, "bench", *engine(arguments, threads), "--batch", str(2 * images), "--methods", arguments.methods]
    run([*command, "--repeats", "1", "--json", str(report)])
    return json.loads(report.read_text())


def main():
    arguments = read_arguments()
    settings = [(images, threads) for threads in arguments.threads for images in arguments.images]
    pictures, full, speedups = [], {setting: [] for setting in settings}, {setting: {} for setting in settings}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", flush=True)
            pictures.append(first_picture(arguments, folder))
            for setting in settings:
                report = step(arguments, folder, *setting)
                full[setting].append(report["full_ms"] / setting[0])
                for method in report["methods"]:
                    speedups[setting].setdefault(method["name"], []).append(method["speedup"])
    methods = list(next(iter(speedups.values())))
    lines = [
        f"{processor()}; {arguments.backend}, {arguments.dtype}; `{arguments.model}`; medians of {arguments.rounds} rounds. A picture of "
        f"one step takes {statistics.median(pictures):.2f} s from the program's start to its end, with {max(arguments.threads)} threads.",
        "",
        "| threads | images at once | ms an image and step | of one image alone | " + " | ".join(f"`{name}`" for name in methods) + " |",
        "|---:|---:|---:|---:|" + "---:|" * len(methods),
    ]
    for images, threads in settings:
        alone = [own / other for own, other in zip(full[images, threads], full[arguments.images[0], threads])]
        cells = [f"{statistics.median(speedups[images, threads][name]):.2f}x" for name in methods]
        lines.append(
            f"| {threads} | {images} | {statistics.median(full[images, threads]):.1f} | {statistics.median(alone):.2f} | "
            + " | ".join(cells) + " |"
        )
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        write_page(arguments.out, "small", text)


if __name__ == "__main__":
    main()
