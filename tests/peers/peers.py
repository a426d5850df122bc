"""Times diffusers' U-Net, and tomesd on it, in turns with `atedm bench`: one round of theirs, one of ours, and so on.

    sh tests/peers/setup.sh
    cargo build --release -p atedm --features tch
    target/python/bin/python tests/peers/peers.py [--rounds 5] [--unfused] [--out docs/src/benchmarks.md]

Both sides keep their U-Net in memory (5.1 GB each for SD-XL in bf16). They run one after the other, never together: the program waits
for its turn (`--paced`). Weights are generated on both sides. Only ratios within one run mean anything.

With --out, the script replaces the page's part between `<!-- fused -->` (with --unfused: `<!-- unfused -->`) and the next
`<!-- end -->`, and writes the raw figures beside the page.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import tomesd
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# unet/config.json of stabilityai/stable-diffusion-xl-base-1.0, as far as it differs from diffusers' defaults.
SDXL = dict(
    sample_size=128,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(320, 640, 1280),
    layers_per_block=2,
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atedm", default=str(ROOT / "target/release/atedm"), help="the program")
    parser.add_argument("--backend", default="tch")
    parser.add_argument("--config", help="a folder with unet/config.json instead of SD-XL base")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--factor", type=int, default=8, help="pixels a latent")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forced-rounds", type=int, default=2, help="rounds in which tomesd merges in every layer, too")
    parser.add_argument("--methods", help="ours [at-edm-fast,at-edm-dagger-fast,at-edm; with --unfused at-edm]")
    parser.add_argument("--unfused", action="store_true", help="attention that stores its maps on both sides")
    parser.add_argument("--out", type=Path, help="the page to write into, and FILE-PART.json beside it")
    arguments = parser.parse_args()
    if arguments.methods is None:
        arguments.methods = "at-edm" if arguments.unfused else "at-edm-fast,at-edm-dagger-fast,at-edm"
    return arguments


def generated_unet(arguments):
    """diffusers' U-Net with weights of variance 1 / fan-in. It is made in its dtype from the start."""
    config = SDXL
    if arguments.config:
        config = json.loads((Path(arguments.config) / "unet/config.json").read_text())
        config = {key: value for key, value in config.items() if not key.startswith("_")}
    diffusers.utils.logging.set_verbosity_error()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).to(DTYPES[arguments.dtype])
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in unet.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            deviation = 1.0 / math.sqrt(weight[0].numel())
            weight.uniform_(-math.sqrt(3) * deviation, math.sqrt(3) * deviation, generator=generator)
    if arguments.unfused:
        unet.set_attn_processor(AttnProcessor())
    return unet


def inputs(unet, arguments):
    dtype = DTYPES[arguments.dtype]
    generator = torch.Generator().manual_seed(2)
    side, batch, config = arguments.size // arguments.factor, arguments.batch, unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    text_channels = config.cross_attention_dim
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)
    size = float(arguments.size)
    # tomesd looks for the latents among the positional arguments
    positional = (draw(batch, config.in_channels, side, side), torch.tensor(500.0))
    return positional, dict(
        encoder_hidden_states=draw(batch, 77, text_channels),
        added_cond_kwargs=dict(
            text_embeds=draw(batch, pooled),
            time_ids=torch.tensor([[size, size, 0.0, 0.0, size, size]] * batch).to(dtype),
        ),
    )


class Theirs:
    """diffusers and tomesd. Every call of `round` evaluates each of them once."""

    def __init__(self, arguments):
        torch.set_num_threads(arguments.threads)
        self.unet = generated_unet(arguments)
        self.positional, self.named = inputs(self.unet, arguments)
        self.seconds = {}
        self.forced_rounds = 0 if arguments.unfused else arguments.forced_rounds
        self.tomesd = not arguments.unfused
        with torch.inference_mode():
            assert torch.isfinite(self.unet(*self.positional, **self.named).sample.float()).all(), "a prediction is not finite"

    def evaluate(self, name):
        with torch.inference_mode():
            start = time.perf_counter()
            self.unet(*self.positional, **self.named)
            seconds = time.perf_counter() - start
        self.seconds.setdefault(name, []).append(seconds)
        print(f"  {name}: {seconds:.3f} s", flush=True)

    def round(self, number):
        self.evaluate("diffusers")
        if self.tomesd:
            tomesd.apply_patch(self.unet, ratio=0.5)
            self.evaluate("tomesd, its default (r = .5)")
            tomesd.remove_patch(self.unet)
        if number <= self.forced_rounds:
            tomesd.apply_patch(
                self.unet, ratio=0.5, max_downsample=8, merge_attn=True, merge_crossattn=True, merge_mlp=True
            )
            self.evaluate("tomesd, every layer (r = .5)")
            tomesd.remove_patch(self.unet)


class Ours:
    """`atedm bench`, one round at a time."""

    def __init__(self, arguments, report):
        self.report = report
        self.command = [
            arguments.atedm, "bench", "--backend", arguments.backend, "--device", "cpu",
            "--dtype", arguments.dtype, "--size", str(arguments.size), "--batch", str(arguments.batch),
            "--threads", str(arguments.threads), "--repeats", str(arguments.rounds), "--methods", arguments.methods,
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
                return
        sys.exit(f"atedm bench ended before it said {beginning!r}")

    def round(self, number):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.wait_for(f"round {number} ")

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


def table(figures):
    """The rows of the page: name, milliseconds, ratio to diffusers, ratio to our own full step."""
    theirs = {name: 1e3 * statistics.median(seconds) for name, seconds in figures["peers"].items()}
    ours, base = figures["ours"], theirs["diffusers"]
    lines = ["| U-Net evaluation | ms | diffusers ÷ this | full ÷ this | FLOPs allow | scoring | peak GB |",
             "|---|---|---|---|---|---|---|"]
    attention = "maps stored" if figures["unfused"] else "SDPA"
    for name, ms in theirs.items():
        name = f"diffusers, {attention}" if name == "diffusers" else name
        lines.append(f"| {name} | {ms:.0f} | {base / ms:.2f} | | | | |")
    full = ours["full_ms"]
    lines.append(f"| **ours, full** | {full:.0f} | **{base / full:.2f}** | 1.00 | | | |")
    for row in ours["methods"]:
        allowed = row["flops_full"] / row["flops_mean"]
        peak = row["peak_bytes"]
        peak = f"{1e-9 * peak:.2f}" if peak else ""
        lines.append(
            f"| ours, `{row['name']}`, mean of the schedule | {row['mean_ms']:.0f} | {base / row['mean_ms']:.2f} "
            f"| **{row['speedup']:.2f}** | {allowed:.2f} | {100 * row['scoring_share']:.1f} % | {peak} |"
        )
    return "\n".join(lines)


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
    print("theirs: loading", flush=True)
    theirs = Theirs(arguments)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments, Path(folder) / "report.json")
        for number in range(1, arguments.rounds + 1):
            print(f"round {number} of {arguments.rounds}", flush=True)
            theirs.round(number)
            ours.round(number)
        printed, report = ours.finish()
    figures = dict(
        command=" ".join(["target/release/atedm", *ours.command[1:]]),
        cpu=processor(),
        threads=arguments.threads,
        versions=dict(
            atedm=version_of(arguments.atedm), torch=torch.__version__, diffusers=diffusers.__version__,
            tomesd=(ROOT / "tests/peers/requirements.txt").read_text().split("tomesd==")[1].split()[0],
        ),
        rounds=arguments.rounds,
        unfused=arguments.unfused,
        peers=theirs.seconds,
        ours=report,
    )
    print(printed)
    text = table(figures)
    print(text)
    if arguments.out:
        part = "unfused" if arguments.unfused else "fused"
        versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items() if name != "atedm")
        text = "\n".join([
            f"{figures['cpu']}, {arguments.threads} threads; {figures['versions']['atedm']}; {versions}; "
            f"{arguments.size} px, batch {arguments.batch}, {arguments.dtype}; medians of {arguments.rounds} rounds.",
            "", text, "", "The program's own table (`" + figures["command"] + "`):", "", "```text", printed.strip(), "```",
        ])
        write_page(arguments.out, part, text)
        raw = arguments.out.with_name(f"{arguments.out.stem}-{part}.json")
        raw.write_text(json.dumps(figures, indent=1) + "\n")
        print("wrote", arguments.out, "and", raw)


if __name__ == "__main__":
    main()
