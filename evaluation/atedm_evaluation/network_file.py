"""Files of the small networks of this package: weights and a description in one .npz, without pickles."""

import json
import pathlib
import zipfile

import numpy as np
import torch

from .layout import fail


def write(path, model, description):
    """Writes the network's weights, its description (a mapping) and its `report`."""
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, description=json.dumps(description | {"report": model.report}), **weights)
    except OSError as error:
        fail(path, error.strerror)


def read(path, build, expected):
    """Reads a file of `write`. `build(description, weights)` makes the network. It raises ValueError, or ends the program itself, if
    the description is of another kind. Any other file ends the program, and `expected` says what the file should be."""
    try:
        with np.load(path, allow_pickle=False) as file:
            description = json.loads(str(file["description"]))
            weights = {name: torch.from_numpy(file[name]) for name in file.files if name != "description"}
        model = build(description, weights)
        model.load_state_dict(weights)
        model.report = description["report"]
        return model.eval()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        fail(path, getattr(error, "strerror", None) or f"expected {expected}")
