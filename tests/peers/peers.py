"""Times other engines on SD-XL's U-Net in turns with `atedm bench`: one round of theirs, one of ours, and so on.

    sh tests/peers/setup.sh
    cargo build --release -p atedm --features tch
    target/python/bin/python tests/peers/peers.py [--rounds 3] [--unfused] [--out docs/src/benchmarks.md]

The engines are diffusers, tomesd on it, torch.compile with frozen weights, OpenVINO, and stable-diffusion.cpp (engine.py). Each has
a process of its own, beside which only `atedm bench` is in memory. They run one after the other, never together: each waits for its
turn. Weights are generated on both sides. Only ratios within one run mean anything. An engine that does not run is a row that says
why.

With --out, the script replaces the page's part between `<!-- fused -->` (with --unfused: `<!-- unfused -->`) and the next
`<!-- end -->`, and writes the raw figures beside the page.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("diffusers", "tomesd", "compile", "openvino", "sdcpp")
PACKAGES = {"tomesd": "tomesd", "openvino": "openvino", "sdcpp": "stable-diffusion-cpp-python"}
"""The packages of engines that are not part of PyTorch or diffusers."""


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atedm", default=str(ROOT / "target/release/atedm"), help="the program")
    parser.add_argument("--backend", default="tch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--config", help="a folder with unet/config.json instead of SD-XL base")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--factor", type=int, default=8, help="pixels a latent")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("f32", "f16", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3, help="rounds beside each engine")
    parser.add_argument("--engines", help=f"comma-separated [{','.join(ENGINES)}; with --unfused diffusers]")
    parser.add_argument("--methods", help="ours [at-edm-fast,at-edm-dagger-fast,at-edm; with --unfused at-edm]")
    parser.add_argument("--unfused", action="store_true", help="attention that stores its maps on both sides")
    parser.add_argument("--out", type=Path, help="the page to write into, and FILE-PART.json beside it")
    arguments = parser.parse_args()
    if arguments.methods is None:
        arguments.methods = "at-edm" if arguments.unfused else "at-edm-fast,at-edm-dagger-fast,at-edm"
    arguments.engines = (arguments.engines or ("diffusers" if arguments.unfused else ",".join(ENGINES))).split(",")
    if unknown := set(arguments.engines) - set(ENGINES):
        parser.error(f"--engines: expected {', '.join(ENGINES)}, got {', '.join(sorted(unknown))}")
    if shutil.which(arguments.atedm) is None:
        parser.error(f"--atedm: {arguments.atedm}: not there (cargo build --release -p atedm --features tch)")
    if arguments.out and not arguments.out.is_file():
        parser.error(f"--out: {arguments.out}: not there")
    return arguments


class Engine:
    """engine.py in a process of its own."""

    def __init__(self, name, arguments):
        command = [sys.executable, str(ROOT / "tests/peers/engine.py"), name]
        for key in ("dtype", "size", "factor", "batch", "threads", "device"):
            command += [f"--{key}", str(getattr(arguments, key))]
        command += ["--config", arguments.config] if arguments.config else []
        command += ["--unfused"] if arguments.unfused else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        beginning = self.answer()
        self.failed = beginning.get("failed")
        self.compile_seconds, self.distance = beginning.get("compile_seconds"), beginning.get("distance")

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        code = self.process.wait()
        return dict(failed="killed, perhaps for want of memory" if code < 0 else f"it ended with code {code}")

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.failed = answer.pop("failed", None)
        return answer

    def end(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class Ours:
    """`atedm bench`, one round at a time."""

    def __init__(self, arguments, report):
        self.report = report
        self.command = [
            arguments.atedm, "bench", "--backend", arguments.backend, "--device", arguments.device,
            "--dtype", arguments.dtype, "--size", str(arguments.size), "--batch", str(arguments.batch),
            "--threads", str(arguments.threads), "--repeats", str(arguments.rounds * len(arguments.engines)), "--methods", arguments.methods,
        ] + (["--unfused"] if arguments.unfused else [])
        more = ["--model", arguments.config, "--generated"] if arguments.config else []
        self.process = subprocess.Popen(
            self.command + more + ["--paced", "--json", str(report)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        self.wait_for("ready")

    def wait_for(self, beginning):
        for line in self.process.stderr:
            print("  atedm:", line.rstrip(), flush=True)
            if line.startswith(beginning):
                return line
        sys.exit(f"atedm bench ended before it said {beginning!r}")

    def round(self, number):
        """The seconds of a full evaluation."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.wait_for(f"round {number} ")
        return float(re.search(r"full ([0-9.]+) s", line).group(1))

    def finish(self):
        """The output of the program, and its figures."""
        self.process.stdin.close()
        printed = self.process.stdout.read()
        if self.process.wait() != 0:
            sys.exit("atedm bench failed: " + self.process.stderr.read())
        return printed, json.loads(self.report.read_text())


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{names[0] if names else platform.machine()} ({', '.join(known)})"


def version_of(program):
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def versions(arguments):
    """The versions of all programs that ran."""
    packages = ["torch", "diffusers"] + [package for name, package in PACKAGES.items() if name in arguments.engines]
    found = {"atedm": version_of(arguments.atedm)}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def table(figures):
    """The rows of the page. Ratios of engines are medians of the ratios of single rounds."""
    ours, peers = figures["ours"], figures["peers"]
    full = ours["full_ms"]
    beside = {
        row["name"]: statistics.median(o / t for t, o in zip(row["seconds"], row["ours_seconds"]))
        for row in peers if "seconds" in row
    }
    base = beside.get("diffusers")
    against = lambda ratio: f"{ratio / base:.2f}" if base else ""
    lines = ["| U-Net evaluation | ms | diffusers ÷ this | our full ÷ this | FLOPs allow | scoring | peak GB |",
             "|---|---|---|---|---|---|---|"]
    attention = "maps stored" if figures["unfused"] else "SDPA"
    for row in peers:
        if "failed" in row:
            lines.append(f"| {row['name']} | did not run: {row['failed']} | | | | | |")
            continue
        name = f"diffusers, {attention}" if row["name"] == "diffusers" else row["name"]
        if row["compile_seconds"]:
            name += f" ({row['compile_seconds']:.0f} s to compile; prediction {row['distance']:.2f} from diffusers')"
        ms, ratio = 1e3 * statistics.median(row["seconds"]), beside[row["name"]]
        lines.append(f"| {name} | {ms:.0f} | {against(ratio)} | {ratio:.2f} | | | |")
    lines.append(f"| **ours, full** | {full:.0f} | **{against(1)}** | 1.00 | | | |")
    for row in ours["methods"]:
        allowed = row["flops_full"] / row["flops_mean"]
        peak = row["peak_bytes"]
        peak = f"{1e-9 * peak:.2f}" if peak else ""
        lines.append(
            f"| ours, `{row['name']}`, mean of the schedule | {row['mean_ms']:.0f} | {against(row['speedup'])} "
            f"| **{row['speedup']:.2f}** | {allowed:.2f} | {100 * row['scoring_share']:.1f} % | {peak} |"
        )
    return "\n".join(lines)


def in_turns(arguments, ours):
    """Rows of all engines: seconds of every round, and our own seconds in the same rounds."""
    rows, number = [], 0
    for name in arguments.engines:
        print(f"{name}: loading", flush=True)
        engine, rounds = Engine(name, arguments), {}
        for _ in range(arguments.rounds):
            number += 1
            seconds = {} if engine.failed else engine.round()
            print("  theirs:", engine.failed or ", ".join(f"{key} {value:.3f} s" for key, value in seconds.items()), flush=True)
            own = ours.round(number)
            for row, value in seconds.items():
                rounds.setdefault(row, []).append((value, own))
        engine.end()
        for row, pairs in rounds.items():
            theirs, own = zip(*pairs)
            rows.append(dict(
                name=row, seconds=theirs, ours_seconds=own, compile_seconds=engine.compile_seconds,
                distance=engine.distance,
            ))
        if engine.failed:
            rows.append(dict(name=name, failed=engine.failed))
    return rows


def write_page(page, part, text):
    begin, end = f"<!-- {part} -->", "<!-- end -->"
    old = page.read_text()
    if begin not in old or end not in old.split(begin, 1)[1]:
        sys.exit(f"{page}: expected {begin} and, after it, {end}")
    before, rest = old.split(begin, 1)
    after = rest.split(end, 1)[1]
    temporary = page.with_suffix(".tmp")
    temporary.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    temporary.replace(page)


def main():
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments, Path(folder) / "report.json")
        peers = in_turns(arguments, ours)
        printed, report = ours.finish()
    figures = dict(
        command=" ".join(["target/release/atedm", *ours.command[1:]]),
        cpu=processor(),
        threads=arguments.threads,
        versions=versions(arguments),
        rounds=arguments.rounds,
        unfused=arguments.unfused,
        peers=peers,
        ours=report,
    )
    print(printed)
    text = table(figures)
    print(text)
    if arguments.out:
        part = "unfused" if arguments.unfused else "fused"
        told = ", ".join(f"{name} {version}" for name, version in figures["versions"].items() if name != "atedm")
        text = "\n".join([
            f"{figures['cpu']}, {arguments.threads} threads; {figures['versions']['atedm']}; {told}; "
            f"{arguments.size} px, batch {arguments.batch}, {arguments.dtype}; {arguments.rounds} rounds beside each engine, medians.",
            "", text, "", "The program's own table (`" + figures["command"] + "`):", "", "```text", printed.strip(), "```",
        ])
        write_page(arguments.out, part, text)
        raw = arguments.out.with_name(f"{arguments.out.stem}-{part}.json")
        raw.write_text(json.dumps(figures, indent=1) + "\n")
        print("wrote", arguments.out, "and", raw)


if __name__ == "__main__":
    main()
