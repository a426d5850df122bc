"""Files of masks, in the format of `atedm generate --masks-out` and of the `masks` of an ablation."""

import re
from dataclasses import dataclass

import numpy as np

from . import features
from .layout import fail

GROUP = re.compile(r"step\.(\d+)\.(.+)\.layer\.(\d+)\.kept")


@dataclass
class Decision:
    """The tokens that a layer kept at a step, for each batch row, among those that reached the layer. `positions` `[rows, tokens]`
    are their places in the grid (height, width). `whole` says that no layer had pruned them before."""

    step: int
    layer: tuple[str, str]
    grid: tuple[int, int]
    kept: np.ndarray
    positions: np.ndarray
    whole: bool


def decisions_of(file, step=None):
    """The pruning decisions of a file of masks, or those of one step."""
    safetensors = features.needed("safetensors")
    load_file = features.needed("safetensors.numpy").load_file
    try:
        tensors = load_file(file)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        fail(file, getattr(error, "strerror", None) or "expected masks of `atedm generate --masks-out`")
    found = []
    for name, kept in tensors.items():
        match = GROUP.fullmatch(name)
        if match is None or step not in (None, int(match[1])):
            continue
        group = name.removesuffix("kept")
        try:
            tokens, height, width, _ = (int(number) for number in tensors[group + "site"])
            whole = group + "positions" not in tensors
            every = np.broadcast_to(np.arange(tokens), (len(kept), tokens))
            positions = every if whole else tensors[group + "positions"]
            mask = np.zeros((len(kept), tokens), dtype=bool)
            np.put_along_axis(mask, kept, True, axis=1)
            fits = positions.shape == mask.shape and not (positions >= height * width).any()
        except (KeyError, ValueError, IndexError):
            fits = False
        if not fits:
            fail(file, f"{group[:-1]}: expected kept, site and, where the stream was pruned before, positions that fit")
        found.append(Decision(int(match[1]), (match[2], match[3]), (height, width), mask, positions, whole))
    return found
