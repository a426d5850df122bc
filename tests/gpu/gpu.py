"""The checks that need a GPU, in one run of less than nine minutes that needs no network.

    python3 tests/gpu/gpu.py pack             on the machine that builds: puts the programs into target/gpu (at most 64 MB)
    python3 tests/gpu/gpu.py pack --candle    the same with Candle for NVIDIA GPUs: 20 minutes more, and 1 GB from PyPI for the toolkit
    python3 tests/gpu/gpu.py run [OUT]        on the machine with the GPU, from the repository with target/gpu
    python3 tests/gpu/gpu.py run OUT --dry    the same on the CPU with a tiny model, to check this script

Steps, each with its own time limit: the conformance suites of libtorch and of Candle on the device in every dtype; pictures of two tiny
checkpoints, equal on the CPU and on the device; `atedm bench` of both at 1024 px, batch 2, bf16; diffusers and torch.compile in turns
with libtorch. Without `pack --candle`, the steps of Candle are left out, and the table says so.
Each step writes OUT/STEP.json as soon as it ends, and OUT/table.md is made again from all of them. So a run may be stopped at any
moment. A step whose file is there is not repeated; `--only a,b` names steps.

The libraries of PyTorch 2.11 come from the Python that runs this script.
"""

import argparse
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "target/gpu"
LIMIT = 64 * 1000 * 1000
# Seconds: together less than nine minutes.
LIMITS = dict(conformance=80, candle=80, parity=60, bench=110, candle_bench=80, peers=120)
METHODS = "at-edm-fast,at-edm-dagger-fast,at-edm-best,tome-c,toma,deepcache,deepcache+at-edm-fast,deepcache+tome-c"
DRY_METHODS = "at-edm-fast,at-edm-best,tome-c"
# The result of a step whose program is not in the pack.
LEFT_OUT = dict(ok=None, summary="left out: the pack has no Candle for GPUs (pack --candle)")
# The relative L2 distance that f32 sums in another order may make over a few steps.
TOLERANCE = 1e-3


FEATURES = "atedm/train,atedm/emoji,atedm-tests/tch,example-wan-like/tch"


def build_and_pack(candle):
    """Builds the programs and the tests of the device, and puts them into target/gpu without debug symbols."""
    subprocess.run(["bash", "tests/libtorch.sh"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", "--release", "--package", "atedm", "--features", "tch"], cwd=ROOT, check=True)
    programs = dict(atedm=ROOT / "target/release/atedm", tch_cuda=built("tch_cuda", "--workspace", "--features", FEATURES))
    if candle:
        toolkit, target = str(ROOT / "backend-candle/scripts/cuda_toolkit.sh"), str(ROOT / "target/candle-cuda")
        build = ["cargo", "build", "--release", "--package", "atedm", "--features", "cuda", "--target-dir", target]
        subprocess.run([toolkit, *build], cwd=ROOT, check=True)
        programs["atedm-candle"] = ROOT / "target/candle-cuda/release/atedm"
        test = ["--package", "atedm-tests", "--features", "cuda", "--release", "--target-dir", target]
        programs["candle_cuda"] = built("candle_cuda", *test, before=[toolkit])
    pack(programs)


def built(test, *flags, before=()):
    """Builds a test and gives its program."""
    command = [*before, "cargo", "test", "--no-run", *flags, "--test", test, "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return Path([m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == test][-1])


def pack(programs):
    shutil.rmtree(PACK, ignore_errors=True)
    PACK.mkdir(parents=True)
    for name, source in programs.items():
        shutil.copy2(source, PACK / name)
        subprocess.run(["strip", str(PACK / name)], check=True)
    size = sum(file.stat().st_size for file in PACK.iterdir())
    if size > LIMIT:
        sys.exit(f"{PACK}: expected at most {LIMIT / 1e6:.0f} MB, got {size / 1e6:.1f} MB")
    print(f"{PACK}: {size / 1e6:.1f} MB")


class Run:
    """The steps on one device."""

    def __init__(self, out, dry):
        self.out, self.dry = out, dry
        self.device = "cpu" if dry else "cuda:0"
        torch = importlib.util.find_spec("torch")
        if torch is None:
            sys.exit("expected a Python with PyTorch 2.11, got one without torch")
        libraries = Path(torch.origin).parent / "lib"
        found = [libraries, *libraries.parent.parent.glob("nvidia/*/lib")]
        paths = [str(path) for path in found] + [os.environ.get("LD_LIBRARY_PATH", "")]
        self.environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}

    def call(self, *command, limit, **more):
        return subprocess.run(
            [str(part) for part in command], env=self.environment, cwd=ROOT, timeout=limit,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
        )

    def conformance(self, limit):
        """The suite of libtorch."""
        return self.suite("tch_cuda", limit)

    def candle(self, limit):
        """The suite of Candle."""
        return self.suite("candle_cuda", limit)

    def suite(self, program, limit):
        """Passed and failed tests of a suite. On a machine without a GPU they test nothing, and the step says so."""
        if not (PACK / program).exists():
            return LEFT_OUT
        done = self.call(PACK / program, limit=limit)
        lines = done.stdout.splitlines()
        summary = next((line for line in lines if line.startswith("test result:")), f"it ended with code {done.returncode}")
        failed = [line.split()[1] for line in lines if line.endswith("... FAILED")]
        absent = next((line for line in done.stderr.splitlines() if "nothing is tested" in line), None)
        ok = done.returncode == 0 and (absent is None or self.dry)
        return dict(ok=ok, tested=absent is None, summary=absent or summary, failed=failed)

    def parity(self, limit):
        """Relative L2 of final latents in f32: Candle on the CPU against libtorch on the device, plain and pruned."""
        rows, until = [], time.monotonic() + limit
        for model in ("tiny-a", "tiny-b"):
            for prune in ("none", "at-edm", "tome-c"):
                latents = []
                for engine in (["--backend", "candle"], ["--backend", "tch", "--device", self.device]):
                    kept, picture = (self.out / f"parity.{ending}" for ending in ("safetensors", "png"))
                    kept.unlink(missing_ok=True)
                    picture.unlink(missing_ok=True)
                    done = self.call(
                        PACK / "atedm", "generate", "--model", ROOT / "tests/fixtures" / model, "--prompt", "a fox", "--prune", prune,
                        "--steps", "4", "--width", "128", "--height", "128", "--output", picture, "--save-latents", kept,
                        *engine, limit=max(1, until - time.monotonic()),
                    )
                    if done.returncode != 0:
                        return dict(ok=False, summary=done.stderr.strip().splitlines()[-1], rows=rows)
                    latents.append(numbers(kept))
                rows.append(dict(model=model, prune=prune, distance=relative_l2(*latents)))
        worst = max(row["distance"] for row in rows)
        return dict(ok=worst <= TOLERANCE, summary=f"at most {worst:.1e} in relative L2", rows=rows)

    def bench(self, limit):
        """Times of libtorch."""
        return self.times("atedm", "tch", limit)

    def candle_bench(self, limit):
        """Times of Candle."""
        program = "atedm" if self.dry else "atedm-candle"
        return self.times(program, "candle", limit) if (PACK / program).exists() else LEFT_OUT

    def times(self, program, backend, limit):
        report = self.out / f"{backend}-report.json"
        size = ["--model", ROOT / "tests/fixtures/tiny-a", "--generated", "--size", "128"] if self.dry else ["--size", "1024"]
        dtype = "f32" if self.dry else "bf16"
        methods = DRY_METHODS if self.dry else METHODS
        done = self.call(
            PACK / program, "bench", "--backend", backend, "--device", self.device, "--dtype", dtype, "--batch", "2", *size,
            "--repeats", "5", "--methods", methods, "--json", report, limit=limit,
        )
        if done.returncode != 0:
            return dict(ok=False, summary=done.stderr.strip().splitlines()[-1])
        return dict(ok=True, summary=done.stdout.strip(), report=json.loads(report.read_text()))

    def peers(self, limit):
        out = self.out / "peers.md"
        out.write_text("<!-- fused -->\n<!-- end -->\n")
        size = ["--config", "tests/fixtures/tiny-a", "--size", "128", "--factor", "4"] if self.dry else []
        done = self.call(
            sys.executable, "tests/peers/peers.py", "--atedm", PACK / "atedm", "--device", self.device, "--batch", "2", *size,
            "--dtype", "f32" if self.dry else "bf16", "--rounds", "5", "--engines", "diffusers" if self.dry else "diffusers,compile",
            "--methods", "at-edm-fast", "--out", out, limit=limit,
        )
        if done.returncode != 0:
            return dict(ok=False, summary=(done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
        return dict(ok=True, summary=out.read_text(), report=json.loads((self.out / "peers-fused.json").read_text()))

    def step(self, name):
        """Runs a step, and writes what came of it."""
        begun = time.monotonic()
        try:
            result = getattr(self, name)(LIMITS[name])
        except subprocess.TimeoutExpired:
            result = dict(ok=False, summary=f"stopped after its limit of {LIMITS[name]} s")
        except OSError as error:
            result = dict(ok=False, summary=str(error))
        result = dict(result, seconds=round(time.monotonic() - begun, 1), device=self.device)
        write(self.out / f"{name}.json", json.dumps(result, indent=1) + "\n")
        return result


def numbers(path):
    """The values of a safetensors file's only tensor, which is f32."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    return struct.unpack(f"<{(len(data) - begin) // 4}f", data[begin:])


def relative_l2(expected, got):
    apart = sum((a - b) ** 2 for a, b in zip(expected, got, strict=True))
    return (apart / sum(a * a for a in expected)) ** 0.5


def write(path, text):
    """Writes a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def table(out):
    """What came of all steps so far."""
    lines = ["| step | | seconds | |", "|---|---|---:|---|"]
    blocks = []
    for name in LIMITS:
        path = out / f"{name}.json"
        if not path.exists():
            lines.append(f"| {name} | not run | | |")
            continue
        result = json.loads(path.read_text())
        first, *more = result["summary"].splitlines() or [""]
        end = {True: "passed", False: "FAILED", None: ""}[result["ok"]]
        lines.append(f"| {name} | {end} | {result['seconds']} | {'see below' if more else first} |")
        if more:
            blocks.append(f"## {name}\n\n" + (result["summary"] if "|---" in result["summary"] else f"```text\n{result['summary']}\n```"))
    return "\n".join(lines) + "\n\n" + "\n\n".join(blocks) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--candle", action="store_true", help="with Candle for NVIDIA GPUs")
    packing.add_argument("--program", type=Path, help="a built program; without it all are built")
    packing.add_argument("--test", type=Path, help="a built test tch_cuda")
    running = commands.add_parser("run")
    running.add_argument("out", nargs="?", type=Path, default=Path(os.environ.get("OUT", "target/gpu-results")))
    running.add_argument("--dry", action="store_true", help="on the CPU with a tiny model")
    running.add_argument("--only", help=f"comma-separated steps [{','.join(LIMITS)}]")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        ready = arguments.program and arguments.test
        return pack(dict(atedm=arguments.program, tch_cuda=arguments.test)) if ready else build_and_pack(arguments.candle)
    if not (PACK / "atedm").exists():
        sys.exit(f"{PACK}: expected the programs here (python3 tests/gpu/gpu.py pack)")
    steps = arguments.only.split(",") if arguments.only else list(LIMITS)
    if unknown := [name for name in steps if name not in LIMITS]:
        parser.error(f"--only: expected {', '.join(LIMITS)}, got {', '.join(unknown)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = Run(arguments.out.resolve(), arguments.dry)
    failed = False
    for name in steps:
        if (arguments.out / f"{name}.json").exists():
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: at most {LIMITS[name]} s", flush=True)
        result = run.step(name)
        failed |= result["ok"] is False
        write(arguments.out / "table.md", table(arguments.out))
    print((arguments.out / "table.md").read_text() if (arguments.out / "table.md").exists() else table(arguments.out))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
