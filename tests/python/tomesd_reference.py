"""Merge sets of the real tomesd on random inputs, as JSON lines.

    pip install --no-deps tomesd==0.1.3
    python tomesd_reference.py OUT.jsonl [--count 1000] [--first 0]

Every line is a case. It has `number` (which gives the metric and the sizes, here as in tests/tests/tomerge_sets.rs), `height`,
`width`, `channels`, `batch`, `sx`, `sy` and `r` (tokens to merge). `torch_seed` is null if the first token of each cell is the
destination. `margin` is the distance of the closest discrete choice that matters from another, in f64. `labels` has for each batch
row and token the lowest token that it is merged with, or the token itself.
"""

import argparse
import json
import sys

import torch
from tomesd import merge as tomesd_merge

MASK = (1 << 64) - 1


class Draws:
    """SplitMix64: the same numbers in every language."""

    def __init__(self, seed):
        self.state = seed & MASK

    def bits(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = ((self.state ^ (self.state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, below):
        return (self.bits() >> 11) * below >> 53

    def value(self):
        """Numbers from -1 to 1 in steps that f32 holds exactly."""
        return (self.bits() >> 48) / 32768 - 1


def make_case(number):
    """Sizes, options and metric of a case, from its number alone."""
    draws = Draws(number)
    case = dict(number=number)
    case["height"] = 2 + draws.below(15)
    case["width"] = 2 + draws.below(15)
    case["channels"] = 3 + draws.below(14)
    case["batch"] = 1 + draws.below(3)
    case["sx"], case["sy"] = [(2, 2), (2, 2), (1, 2), (2, 1), (3, 2), (4, 4)][draws.below(6)]
    case["sx"], case["sy"] = min(case["sx"], case["width"]), min(case["sy"], case["height"])
    tokens = case["height"] * case["width"]
    case["r"] = int(tokens * (1 + draws.below(19)) / 20)
    case["torch_seed"] = draws.below(1 << 20) if draws.below(3) == 0 else None
    if case["torch_seed"] is not None:
        case["batch"] = 2  # tomesd draws nothing for a batch of an odd number
    shape = (case["batch"], tokens, case["channels"])
    values = [draws.value() for _ in range(shape[0] * shape[1] * shape[2])]
    return case, torch.tensor(values, dtype=torch.float64).reshape(shape)


def labels(merged):
    """The lowest member of every token's set, from merged one-hot rows [b, kept, tokens]."""
    batch, _, tokens = merged.shape
    out = []
    for row in range(batch):
        label = [0] * tokens
        for members in (merged[row] > 0):
            places = members.nonzero()[:, 0].tolist()
            for place in places:
                label[place] = places[0]
        out.append(label)
    return out


def destinations(height, width, sx, sy, generator=None):
    """The tokens that others are merged into. With a generator, they are those that tomesd draws with it."""
    rows, columns = height // sy, width // sx
    offsets = torch.zeros(rows, columns, 1, dtype=torch.int64)
    if generator is not None:
        offsets = torch.randint(sy * sx, (rows, columns, 1), generator=generator)
    places = set()
    for y in range(rows):
        for x in range(columns):
            down, right = divmod(offsets[y, x].item(), sx)
            places.add((y * sy + down) * width + x * sx + right)
    return sorted(places)


def margin(metric, places, r):
    """The least distance of a discrete choice that matters from the next one, in f64.

    Choices that matter: which sources are the `r` to merge, and the destination of those.
    """
    metric = metric.double()
    metric = metric / metric.norm(dim=-1, keepdim=True)
    sources = sorted(set(range(metric.shape[1])) - set(places))
    r = min(len(sources), r)
    if r <= 0:
        return 2.0
    best = (metric[:, sources] @ metric[:, places].transpose(-1, -2)).topk(min(2, len(places)), dim=-1).values
    order = best[..., 0].sort(dim=-1, descending=True)
    least = 2.0
    if r < len(sources):
        least = (order.values[:, r - 1] - order.values[:, r]).min().item()
    if best.shape[-1] == 2:
        clear = (best[..., 0] - best[..., 1]).gather(1, order.indices[:, :r])
        least = min(least, clear.min().item())
    return least


def run(number):
    """One case with tomesd's merge sets."""
    case, metric = make_case(number)
    tokens = metric.shape[1]
    draw = case["torch_seed"] is not None

    def generator():
        return torch.Generator().manual_seed(case["torch_seed"] or 0)

    arguments = (case["width"], case["height"], case["sx"], case["sy"], case["r"])
    merge, _ = tomesd_merge.bipartite_soft_matching_random2d(metric.float(), *arguments, not draw, generator())
    merged = merge(torch.eye(tokens).expand(case["batch"], -1, -1).contiguous())
    places = destinations(case["height"], case["width"], case["sx"], case["sy"], generator() if draw else None)
    case["margin"] = margin(metric, places, case["r"])
    case["labels"] = labels(merged)
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.jsonl")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with open(arguments.out, "w", encoding="utf-8") as f:
        for number in range(arguments.first, arguments.first + arguments.count):
            f.write(json.dumps(run(number), separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
