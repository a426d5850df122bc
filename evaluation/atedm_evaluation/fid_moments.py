"""Moments of Inception features that can be merged, for an FID of images on several machines.

    fid_moments.py of FOLDER PART.npz [--device cuda] [--batch-size 50]
    fid_moments.py merge PART.npz PART.npz ... --output ALL.npz

`of` needs pytorch-fid (and the weights that it fetches); `merge` needs only NumPy. A part holds the number of images, the mean of
their features, and the sum of products of deviations from it. Two parts merge exactly (Chan, Golub, LeVeque 1979):

    n = a.n + b.n,  d = b.mean - a.mean
    mean = a.mean + d b.n / n,  m2 = a.m2 + b.m2 + d d' a.n b.n / n

Every file also stores `mu` and `sigma = m2 / (n - 1)`, so it is a statistics file of pytorch-fid too.
"""

import argparse
import functools
import pathlib
import sys

import numpy as np


def part_of(features):
    """Number, mean and sum of products of deviations of features `[images, 2048]`."""
    features = np.asarray(features, dtype=np.float64)
    mean = features.mean(axis=0)
    deviations = features - mean
    return len(features), mean, deviations.T @ deviations


def merged(a, b):
    """The part of the images of both parts."""
    count = a[0] + b[0]
    difference = b[1] - a[1]
    mean = a[1] + difference * (b[0] / count)
    return count, mean, a[2] + b[2] + np.outer(difference, difference) * (a[0] * b[0] / count)


def write(path, part):
    """Writes a part, which is also a statistics file of pytorch-fid."""
    count, mean, m2 = part
    np.savez(path, count=count, mu=mean, m2=m2, sigma=m2 / max(count - 1, 1))


def read(path):
    """Reads a part."""
    with np.load(path) as file:
        if not {"count", "mu", "m2"} <= set(file.files):
            sys.exit(f"error: {path}: expected moments with count, mu and m2 (a file of `fid_moments.py of`)")
        return int(file["count"]), file["mu"], file["m2"]


def features_of(folder, device, batch_size):
    """Inception features of a folder's pictures, as pytorch-fid computes them."""
    from pytorch_fid.fid_score import IMAGE_EXTENSIONS, get_activations
    from pytorch_fid.inception import InceptionV3

    files = sorted(file for file in pathlib.Path(folder).iterdir() if file.suffix.lower()[1:] in IMAGE_EXTENSIONS)
    if not files:
        sys.exit(f"error: {folder}: expected pictures in it, got none")
    model = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).to(device)
    return get_activations(files, model, batch_size=batch_size, device=device)


def main():
    parser = argparse.ArgumentParser(description="Moments of Inception features that can be merged.")
    actions = parser.add_subparsers(dest="action", required=True)
    of = actions.add_parser("of", help="moments of a folder of pictures")
    of.add_argument("folder")
    of.add_argument("output")
    of.add_argument("--device", default="cpu")
    of.add_argument("--batch-size", type=int, default=50)
    merge = actions.add_parser("merge", help="one file of many parts")
    merge.add_argument("parts", nargs="+")
    merge.add_argument("--output", required=True)
    args = parser.parse_args()
    if args.action == "of":
        write(args.output, part_of(features_of(args.folder, args.device, args.batch_size)))
    else:
        write(args.output, functools.reduce(merged, map(read, args.parts)))


if __name__ == "__main__":
    main()
