#!/usr/bin/env python3
"""Runs the commands of README.md and of the guide without changes.

    python3 tests/docs/commands.py [--atedm target/debug/atedm] [--list] [FILE.md ...]

Every line of every fenced `sh` block must be of a kind that is listed here. The same holds for `cargo build …` and the like in prose.

run       `atedm …`, `target/release/atedm …` and `cargo run --release -- …`. They run with the program of `--atedm`, however that
          was built, because compiling again would show nothing more. Each page has a fresh folder with copies of docs/, examples/,
          recipes/ and tests/. The folder also has the blocks whose first line is `# NAME.toml`, and a tiny checkpoint of random
          weights under the names that the pages give to SD-XL (STAND_INS). This tests flags and files, not pictures.
resolved  `cargo build`, `cargo install` and `cargo run -p`. Packages, features and examples must exist. cargo itself finds this
          without building.
skipped   Commands for one of the reasons in SKIPPED. Files of the repository that the command names must exist. A page skips other
          commands by a comment before the block, which says why:
              <!-- not run: its 5,000 captions are not at hand -->
              <!-- not run (atedm ablate b.toml): … -->      only commands that begin with this

`<!-- before: COMMAND -->` prepares the files that a block needs. A command of another kind is an error, and so is one that fails.
The script needs only Python and cargo. It uses no GPU, and no network except for crates.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = "tests/fixtures/tiny-a"
STAND_INS = ["path/to/stable-diffusion-xl-base-1.0", "sdxl-base", "DIR"]
COPIES = ["docs", "examples", "recipes", "tests"]
LIMIT = 240  # seconds a command
CARGO_RUN = "cargo run --release -- "

# What a command begins with, and why it is not run.
SKIPPED = [
    (r"bash tests/run\.sh", "it is how CI runs the tests"),
    (r"bash evaluation/test\.sh|export PYTHONPATH=evaluation$", "it belongs to the Python package, which CI tests"),
    (r"bash tests/libtorch\.sh", "it fetches libtorch, which CI's tests have done"),
    (r'([A-Z]+=("[^"]*"|\S+) )*evaluation/claims\.sh', "it takes hours"),
    (r"target/release/atedm train|atedm train", "it takes hours; cli/tests/train.rs trains a tiny recipe"),
    (r"(atedm|target/release/atedm) bench", "SD-XL's whole U-Net takes minutes and 13 GB; cli/tests/bench.rs has a small one"),
    (r"cargo bench |python3 tests/peers/small\.py", "it takes minutes; CI compiles the benches"),
    (r"sh tests/peers/setup\.sh|target/python/bin/|pip |python ", "it needs Python packages beyond the standard library"),
    (r"pytorch-fid ", "a program of others, with networks to fetch"),
    (r"python3 tests/gpu/gpu\.py ", "it needs a GPU; tests/gpu/dry.sh runs it on the CPU"),
    (r"git clone ", "it needs a network"),
    (r"backend-candle/scripts/cuda_toolkit\.sh ", "it fetches the CUDA toolkit"),
]


class Page:
    """The commands of a Markdown file, in order, and the files that it shows."""

    def __init__(self, path):
        self.path, self.commands, self.files = path, [], {}
        fence, body, start = None, [], 0
        befores, skips = [], []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if fence is None:
                if found := re.fullmatch(r"```(\S*)", line):
                    fence, body, start = found[1], [], number
                elif spans := re.findall(r"`(cargo (?:build|install|run -p) [^`]+)`", line):
                    self.commands += [(number, command, None) for command in spans]
                elif found := re.fullmatch(r"<!-- before: (.*) -->", line):
                    befores.append((number, found[1]))
                elif found := re.fullmatch(r"<!-- not run(?: \((.*)\))?: (.*) -->", line):
                    skips.append((found[1] or "", found[2]))
            elif line != "```":
                body.append(line)
            else:
                self.block(fence, body, start, befores, skips)
                fence, befores, skips = None, [], []
        if fence is not None:
            raise SystemExit(f"{path}:{start}: expected an end of this block")
        if befores or skips:
            raise SystemExit(f"{path}: expected a block after the last `before` or `not run`")

    def block(self, kind, body, start, befores, skips):
        named = re.fullmatch(r"# ([\w.-]+\.toml)", body[0]) if body else None
        if named:
            self.files[named[1]] = "\n".join(body) + "\n"
        if kind != "sh":
            return
        self.commands += [(number, command, None) for number, command in befores]
        used = set()
        for number, command in joined(body, start + 1):
            reasons = [(prefix, reason) for prefix, reason in skips if command.startswith(prefix)]
            used.update(prefix for prefix, _ in reasons)
            self.commands.append((number, command, reasons[0][1] if reasons else None))
        for prefix, _ in skips:
            if prefix not in used:
                raise SystemExit(f"{self.path}:{start}: no command begins with {prefix!r}, which is not to be run")


def joined(body, first):
    """Commands with the numbers of their lines: continued lines are one, `a && b` is two, comments are dropped."""
    text, begun = "", first
    for number, line in enumerate(body, first):
        text, begun = (text + line, begun) if text else (line, number)
        if text.endswith("\\"):
            text = text[:-1]
            continue
        words = shlex.shlex(text, posix=False, punctuation_chars="&")
        words.whitespace_split, words.commenters = True, "#"
        parts, last = [], []
        for word in words:
            if word == "&&":
                parts.append(last)
                last = []
            else:
                last.append(word)
        parts.append(last)
        yield from ((begun, " ".join(part)) for part in parts if part)
        text = ""


def fresh_folder(folder, page, program):
    """What a page's commands start from."""
    for name in COPIES:
        shutil.copytree(ROOT / name, folder / name)
    for name in STAND_INS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / TINY)
    release = folder / "target/release"
    release.mkdir(parents=True)
    (release / "atedm").symlink_to(program)
    for name, text in page.files.items():
        (folder / name).write_text(text, encoding="utf-8")


def output_of(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    return done.returncode, done.stdout, (done.stderr or done.stdout).strip()


def programs():
    """Programs that `cargo run` could mean."""
    _, text, _ = output_of(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT)
    known = json.loads(text)
    packages = [found for found in known["packages"] if found["id"] in known["workspace_default_members"]]
    return [target["name"] for found in packages for target in found["targets"] if "bin" in target["kind"]]


def run(command, folder):
    """The program's own command, in the page's folder; gives what is wrong."""
    if command.startswith(CARGO_RUN):
        if programs() != ["atedm"]:
            return f"expected cargo run to mean atedm, got {programs()}"
        command = "atedm " + command[len(CARGO_RUN):]
    places = f"{folder / 'target/release'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": places, "TMPDIR": str(folder / "target")}
    try:
        code, _, said = output_of(["bash", "-euc", command], cwd=folder, env=environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT} s"
    return f"exit code {code}: {said[-600:]}" if code else None


def resolve(words):
    """Whether cargo knows the packages, features and example that a command names; gives what is wrong."""
    tree, example, package = ["cargo", "tree", "--locked", "--depth", "0", "--quiet"], None, None
    arguments = iter(words[2:words.index("--")] if "--" in words else words[2:])
    for word in arguments:
        if word in ("--features", "-p"):
            value = next(arguments)
            package = value if word == "-p" else package
            tree += [word, value]
        elif word == "--path":
            tree += ["--manifest-path", str(ROOT / next(arguments) / "Cargo.toml")]
        elif word == "--example":
            example = next(arguments)
        elif word not in ("--release", "--locked"):
            return f"expected a flag of cargo that is known here, got {word}"
    code, _, said = output_of(tree, cwd=ROOT)
    if code:
        return said
    if example is None:
        return None
    _, text, _ = output_of(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT)
    targets = [target for found in json.loads(text)["packages"] if found["name"] == package for target in found["targets"]]
    known = [target["name"] for target in targets if "example" in target["kind"]]
    return None if example in known else f"expected an example of {package}, one of {known}, got {example}"


def missing(command):
    """Files of the repository that a command names and that are not there."""
    top = {entry.name for entry in ROOT.iterdir() if entry.name != "target"}
    paths = [word for word in shlex.split(command) if "/" in word and word.split("/")[0] in top]
    return [path for path in paths if not (ROOT / path).exists()]


def tried(command, reason, folder):
    """What became of a command, what is wrong or why it was skipped."""
    if reason is None:
        reason = next((why for pattern, why in SKIPPED if re.match(pattern, command)), None)
    if reason is not None:
        gone = missing(command)
        inner = command.find("cargo build")
        wrong = resolve(shlex.split(command[inner:])) if inner > 0 else None
        return ("failed", f"there is no {', '.join(gone)}") if gone else ("failed", wrong) if wrong else ("skipped", reason)
    if command.startswith(("atedm ", "target/release/atedm ", CARGO_RUN, "mkdir -p ", "printf ")):
        wrong = run(command, folder)
        return ("failed", wrong) if wrong else ("run", "")
    if re.match(r"cargo (build|install|run -p) ", command) or command == "cargo build":
        wrong = resolve(shlex.split(command))
        return ("failed", wrong) if wrong else ("resolved", "")
    if re.fullmatch(r"cd [\w-]+", command):
        return "skipped", "it enters a clone"
    return "failed", "expected a command of a kind that is known here: see the top of tests/docs/commands.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atedm", type=pathlib.Path, default=ROOT / "target/debug/atedm")
    parser.add_argument("--list", action="store_true", help="show the commands alone")
    parser.add_argument("pages", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    pages = arguments.pages or [ROOT / "README.md", *sorted((ROOT / "docs/src").glob("*.md"))]
    program = arguments.atedm.resolve()
    if not arguments.list and not program.is_file():
        raise SystemExit(f"{program}: expected the program (cargo build -p atedm)")
    counts, began = {"run": 0, "resolved": 0, "skipped": 0, "failed": 0}, time.monotonic()
    for page in map(Page, pages):
        place = os.path.relpath(page.path.resolve(), ROOT)
        if arguments.list:
            for number, command, reason in page.commands:
                print(f"{place}:{number}: {command}" + (f"   (not run: {reason})" if reason else ""))
            continue
        with tempfile.TemporaryDirectory(prefix="atedm-docs-") as folder:
            if page.commands:
                fresh_folder(pathlib.Path(folder), page, program)
            for number, command, reason in page.commands:
                since = time.monotonic()
                what, why = tried(command, reason, pathlib.Path(folder))
                counts[what] += 1
                seconds = f" {time.monotonic() - since:.1f} s" if what == "run" else ""
                print(f"{what}{seconds}: {place}:{number}: {command}" + (f"\n    {why}" if why else ""), flush=True)
    if not arguments.list:
        done = ", ".join(f"{count} {what}" for what, count in counts.items())
        print(f"{done}; {time.monotonic() - began:.0f} s")
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
