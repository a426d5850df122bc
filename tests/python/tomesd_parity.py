"""End-to-end parity of the program's Token Merging with diffusers patched by the real tomesd.

    pip install --no-deps tomesd==0.1.3
    python tomesd_parity.py --atedm BINARY [--backends candle,ndarray] [--work DIR] [--filter TEXT] [--list]

It uses the checkpoints of parity.py (DIR, target/parity by default) and works in the same way: the same latents go through both. The
relative L2 difference of the final latents must be at most 1e-4, a small part of what merging changes (`effect`). Rounding can decide
any similarity that is nearly a tie. So the latents come from the seed whose closest choice is clearest. The program prints that margin.
"""

import argparse
import os
import shutil
import sys
import time

import parity
import reference
import tomesd
import torch
from tomesd import merge as tomesd_merge
from tomesd_reference import destinations, margin

LIMIT = 1e-4
CLEAR = 2e-5
SEEDS_TRIED = 60
ALL = dict(merge_attn=True, merge_crossattn=True, merge_mlp=True)


def cases():
    """Every case: the keys of parity.py's cases, and tomesd's options under `tome`."""
    rows = []

    def add(name, model, width, height, steps=3, more=None, **options):
        options = dict(dict(ratio=0.5, max_downsample=4, use_rand=False), **options)
        rows.append(dict(parity.case("tome-" + name, model, width, height, steps=steps, **(more or {})), tome=options))

    a, b, karras, every = "tiny-a", "tiny-b", "linspace-karras", "every-level"
    add("attn", a, 64, 64)
    add("all", a, 64, 64, **ALL)
    add("all-ragged", a, 104, 56, ratio=0.4, **ALL)
    add("attn-ragged", a, 72, 40, ratio=0.3)
    add("mlp-only", a, 64, 64, merge_attn=False, merge_mlp=True)
    add("cross-only", a, 64, 64, merge_attn=False, merge_crossattn=True)
    add("capped", a, 64, 64, ratio=0.9, **ALL)
    add("level", a, 64, 64, max_downsample=2, **ALL)
    add("nothing", a, 64, 64, max_downsample=1, **ALL)
    add("cells", a, 64, 64, sx=3, sy=2, **ALL)
    add("no-guidance", a, 72, 56, more=dict(guidance=1.0), **ALL)
    add("batch", a, 56, 48, more=dict(prompts=[parity.CIRCLE, parity.CAT], negative_prompt=parity.BLURRY), **ALL)
    add("random", a, 64, 64, use_rand=True, **ALL)
    add("random-ragged", a, 104, 56, use_rand=True)
    add("random-odd-batch", a, 64, 64, use_rand=True, more=dict(guidance=1.0))
    add("attn", b, 72, 72)
    add("all-ragged", b, 104, 72, ratio=0.4, **ALL)
    add("attn", karras, 96, 96)
    add("all-ragged", karras, 88, 56, **ALL)
    add("all", every, 24, 24, **ALL)
    add("random", every, 24, 40, use_rand=True, **ALL)
    return rows


class Patched:
    """tomesd on a pipeline. It seeds the global generator and records the margin of the choices."""

    def __init__(self, pipe, options, seed):
        self.pipe, self.options, self.seed = pipe, options, seed
        self.margin = 2.0

    def __enter__(self):
        self.original = tomesd_merge.bipartite_soft_matching_random2d

        def watched(metric, w, h, sx, sy, r, no_rand=False, generator=None):
            if r > 0:
                copy = None
                if not no_rand:
                    copy = torch.Generator()
                    copy.set_state(generator.get_state())
                self.margin = min(self.margin, margin(metric, destinations(h, w, sx, sy, copy), r))
            return self.original(metric, w, h, sx, sy, r, no_rand, generator)

        tomesd_merge.bipartite_soft_matching_random2d = watched
        tomesd.apply_patch(self.pipe, **self.options)
        torch.manual_seed(self.seed)
        return self

    def __exit__(self, *_):
        tomesd.remove_patch(self.pipe)
        tomesd_merge.bipartite_soft_matching_random2d = self.original


def write_case(pipe, case, folder):
    """Writes the reference of the clearest seed: the case with the seed, its margin, and how far merging moved the latents."""
    best = (-1.0, 0)
    for seed in range(SEEDS_TRIED):
        seeded = dict(case, seed=seed)
        latents = reference.initial_latents(pipe, seeded)
        with Patched(pipe, case["tome"], seed) as patched:
            reference.generate(pipe, seeded, latents)
        best = max(best, (patched.margin, -seed))
        if patched.margin >= CLEAR:
            break
    seeded = dict(case, seed=-best[1])
    latents = reference.initial_latents(pipe, seeded)
    plain = reference.generate(pipe, seeded, latents)[1]
    with Patched(pipe, case["tome"], seeded["seed"]) as patched:
        merged = reference.write_case(pipe, seeded, folder, latents)[1]
    return seeded, patched.margin, reference.relative_l2(merged, plain)


def options_text(options):
    """The options in the form that the program takes."""
    return ",".join(f"{key}={str(value).lower()}" for key, value in options.items())


def tome_command(*arguments):
    """parity.py's command line with this method in it."""
    line = plain_command(*arguments)
    line[line.index("at-edm")] = "tome"
    return line


plain_command, parity.command = parity.command, tome_command


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atedm", metavar="BINARY", required=True, help="the program")
    parser.add_argument("--backends", default="candle", help="comma-separated")
    parser.add_argument("--work", default=os.path.join(parity.ROOT, "target", "parity"), metavar="DIR")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the cases")
    arguments = parser.parse_args()
    chosen = [case for case in cases() if arguments.filter in case["name"]]
    if arguments.list:
        print("\n".join(case["name"] for case in chosen))
        return 0
    references = parity.References(os.path.abspath(arguments.work))
    binary = os.path.abspath(arguments.atedm)
    failed = 0
    print(f"{'case':<36} {'seed':>4} {'margin':>8} {'effect':>8} {'backend':<8} {'latents':>9} {'time':>7}  result")
    for case in chosen:
        folder = os.path.join(references.folder, "tomesd", case["name"])
        shutil.rmtree(folder, ignore_errors=True)
        case, clear, effect = write_case(references.pipe(case["model"]), case, folder)
        case["prune"] = options_text(case["tome"])
        for backend in arguments.backends.split(","):
            out = os.path.join(references.folder, "out", backend, case["name"])
            start = time.time()
            latents, _, trouble = parity.compare(binary, backend, references.model(case["model"]), case, folder, out)
            # tomesd's own default reaches none of these blocks: there both must do nothing
            moved = effect == 0 if case["tome"]["max_downsample"] == 1 else effect >= 10 * LIMIT
            passed = not trouble and latents <= LIMIT and moved
            failed += not passed
            figure = f"{'-':>9}" if trouble else f"{latents:>9.2e}"
            result = "pass" if passed else "FAIL " + " ".join(trouble.split())
            seconds = f"{time.time() - start:>6.1f}s"
            row = f"{case['name']:<36} {case['seed']:>4} {clear:>8.1e} {effect:>8.1e} {backend:<8} {figure} {seconds}"
            print(f"{row}  {result}", flush=True)
    print(f"{len(chosen)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
