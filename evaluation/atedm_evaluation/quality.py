"""Quality of pictures against other pictures: KID and FD-ENL0 on EfficientNet-Lite0 features, and distances of pairs.

    quality.py PICTURES REFERENCE [--json FILE] [--markdown FILE]
    quality.py --ablation RUN [--features FEATURES.npz] [--reference POINT|PICTURES] [--per-picture FILE.csv] [--per-point FILE.csv]

PICTURES and REFERENCE are files of features.py, or folders of PNG pictures (features are then computed first). A run of `atedm
ablate` has a row for each point. Its reference is the unpruned point of the same sampling (as run.json names it), one point of the
run, or other pictures. `--features` is a file of RUN/images, which saves time when the features are needed again.

Pictures of the same name are pairs; in a run, they have the same prompt and noise. KID leaves out their cross terms (measures.py
says why). Held-out scenes and pictures generated from their captions have names in common too, but no noise. For these, give
--measures kid,fd.

FD-ENL0 is a Fréchet distance like FID, but on another network than Inception, so it does not compare with any FID. Its bias falls
with N as FID's does. Below N = 5,000 it is not reported, unless --anyway is given. KID is unbiased at any N (Binkowski et al. 2018).

All intervals are of 95 %, by the Bayesian bootstrap over pictures. Every row states N. The JSON also has the values of every picture
(`pictures`) and the replicates of KID, so that two points can be compared picture by picture.
"""

import argparse
import pathlib

import numpy as np

from . import features
from . import measures
from . import tables
from .layout import cells_of, fail, read_picture

ENOUGH = 5000
"""The minimum number of pictures in each set for a report of FD-ENL0."""


def distances_of_pairs(a, b, places, weights):
    """Feature cosine, PSNR and SSIM of pairs: their means, and the values by picture. `places` are their rows in a and in b;
    `weights` has one row for each replicate."""
    psnrs, ssims = [], []
    for i, j in zip(*places):
        x, y = read_picture(a.paths[i]), read_picture(b.paths[j])
        if x.shape != y.shape:
            fail(a.paths[i], f"expected the size of {b.paths[j]} ({y.shape[1]} x {y.shape[0]}), got {x.shape[1]} x {x.shape[0]}")
        psnrs.append(measures.psnr(x, y))
        ssims.append(measures.ssim(x, y))
    cosines = measures.cosines(a.values[places[0]], b.values[places[1]])
    means = {
        "feature_cosine": {**measures.interval(measures.weighted_means(cosines, weights)), "n": len(cosines)},
        "ssim": {**measures.interval(measures.weighted_means(ssims, weights)), "n": len(ssims)},
    }
    differ = np.isfinite(psnrs)  # equal pictures have an infinite PSNR: counted beside the mean of the others
    if differ.any():
        values = measures.weighted_means(np.array(psnrs)[differ], weights[:, differ])
        means["psnr"] = {**measures.interval(values), "n": int(differ.sum()), "equal": int((~differ).sum())}
    else:
        means["psnr"] = {"value": None, "low": None, "high": None, "n": 0, "equal": len(psnrs)}
    names = [a.names[i] for i in places[0]]
    own = {"feature_cosine": cosines.tolist(), "ssim": ssims, "psnr": [x if np.isfinite(x) else None for x in psnrs]}
    return means | {"pictures": {key: dict(zip(names, values)) for key, values in own.items()}}


def compared(a, b, options, default="kid,fd,pairs"):
    """The requested measures of features a against features b, as one object."""
    wanted = (options.measures or default).split(",")
    if a.values.shape[1:] != b.values.shape[1:] or min(len(a), len(b)) < 2:
        fail("PICTURES", f"expected at least 2 pictures on both sides, got {len(a)} and {len(b)}")
    names = list(dict.fromkeys(a.names + b.names))
    place = {name: row for row, name in enumerate(names)}
    in_b = {name: row for row, name in enumerate(b.names)}
    weights = measures.bootstrap_weights(len(names), options.replicates, options.seed)
    weights_a, weights_b = (weights[:, [place[name] for name in side.names]] for side in (a, b))
    partners = np.array([in_b.get(name, -1) for name in a.names])
    paired = np.flatnonzero(partners >= 0)
    n = {"pictures": len(a), "reference": len(b), "pairs": len(paired)}
    row = {"n": n}
    if "kid" in wanted:
        values = measures.kid(a.values, b.values, weights_a, weights_b, partners)
        row["kid"] = measures.interval(values) | {"n": min(len(a), len(b))}
        row["kid_replicates"] = values.tolist()
    if "fd" in wanted:
        row["fd_enl0"] = frechet_row(a, b, weights_a, weights_b, options)
    if "pairs" in wanted and len(paired):
        row |= distances_of_pairs(a, b, (paired, partners[paired]), weights_a[:, paired])
    return row


def frechet_row(a, b, weights_a, weights_b, options):
    """FD-ENL0 if there are enough pictures, or else the sentence that says so."""
    n = min(len(a), len(b))
    if n < ENOUGH and not options.anyway:
        return {"value": None, "n": n, "note": f"N = {n:,}, below {ENOUGH:,}: not reported"}
    rows = slice(0, 1 + min(options.replicates, options.fd_replicates))
    row = measures.interval(measures.frechet_distances(a.values, b.values, weights_a[rows], weights_b[rows])) | {"n": n}
    return row | ({"note": f"N = {n:,}, below {ENOUGH:,}: biased, compare at this N alone"} if n < ENOUGH else {})


def of_run(options):
    """Rows of a run, one for each point that is not its own reference."""
    cells, others = cells_of(options.ablation), None
    if options.reference and options.reference not in [cell.id for cell in cells]:
        if not pathlib.Path(options.reference).exists():
            points = ", ".join(cell.id for cell in cells)
            fail("--reference", f"expected a point ({points}), a folder or a file of features, got {options.reference!r}")
        others = features.load(options.reference, options.threads)
    found = features.of_cells(options.ablation, cells, options.features, options.threads)
    parts = {cell.id: part for cell, part in zip(cells, found)}
    rows, pictures = [], {}
    for cell in cells:
        reference = options.reference or cell.reference
        if reference is None or reference == cell.id:
            continue
        if options.per_picture:
            pictures[cell.id] = cosines_of(parts[cell.id], others or parts[reference])
        if others is None:
            row = compared(parts[cell.id], parts[reference], options)
        else:
            row = compared(parts[cell.id], others, options, "kid,fd")
        rows.append({"row": cell.id, "label": cell.label, "reference": reference} | row)
    if options.per_picture:
        tables.write_pictures(options.per_picture, "feature_cosine:higher", pictures)
    if options.per_point:
        tables.write_points(options.per_point, rows, {"kid": "kid:lower", "fd_enl0": "fd_enl0:lower"})
    return rows or fail(options.ablation, "no point has another to be compared with: give --reference")


def cosines_of(a, b):
    """Feature cosines of the pictures that both have, by name."""
    place = {name: row for row, name in enumerate(b.names)}
    both = [name for name in a.names if name in place]
    own = {name: row for row, name in enumerate(a.names)}
    cosines = measures.cosines(a.values[[own[name] for name in both]], b.values[[place[name] for name in both]])
    return dict(zip(both, cosines))


COLUMNS = [
    ("KID × 10³", "kid", 1e3, 3),
    ("FD-ENL0", "fd_enl0", 1, 3),
    ("feature cosine", "feature_cosine", 1, 4),
    ("PSNR (dB)", "psnr", 1, 2),
    ("SSIM", "ssim", 1, 4),
]


def arguments():
    parser = argparse.ArgumentParser(description="KID, FD-ENL0, and distances of pairs, with bootstrap intervals of 95 %.")
    parser.add_argument("pictures", nargs="?", help="file of features.py, or folder")
    parser.add_argument("against", nargs="?", metavar="reference", help="file of features.py, or folder")
    parser.add_argument("--ablation", metavar="RUN", help="folder of `atedm ablate`: a row a point")
    parser.add_argument("--features", help="with --ablation: features of RUN/images")
    parser.add_argument("--reference", help="with --ablation: a point, features or a folder (default: the unpruned point)")
    parser.add_argument("--per-picture", metavar="FILE.csv", help="with --ablation: each feature cosine, for `atedm report --metrics`")
    parser.add_argument("--per-point", metavar="FILE.csv", help="with --ablation: KID and FD-ENL0, for `atedm report --metrics`")
    parser.add_argument("--label", help="what the row is called (default: the pictures' folder)")
    parser.add_argument("--measures", help="some of kid,fd,pairs (default all; no pairs with pictures outside the run)")
    parser.add_argument("--anyway", action="store_true", help=f"FD-ENL0 below N = {ENOUGH:,} too")
    parser.add_argument("--fd-replicates", type=int, default=100, help="at most these for FD-ENL0 (default 100)")
    tables.add_arguments(parser)
    args = parser.parse_args()
    if args.measures is not None and not set(args.measures.split(",")) <= {"kid", "fd", "pairs"}:
        fail("--measures", f"expected some of kid, fd, pairs, got {args.measures!r}")
    if (args.ablation is None) == (args.against is None) or (args.ablation and args.pictures):
        fail("arguments", "expected PICTURES and REFERENCE, or --ablation RUN")
    if args.ablation is None and (args.features or args.reference or args.per_picture or args.per_point):
        fail("--features, --reference, --per-picture, --per-point", "expected with --ablation only")
    tables.check(args)
    if args.fd_replicates < 2:
        fail("--fd-replicates", "expected at least 2")
    return args


def main():
    args = arguments()
    if args.ablation:
        rows = of_run(args)
    else:
        a, b = features.load(args.pictures, args.threads), features.load(args.against, args.threads)
        label = args.label or pathlib.Path(args.pictures).stem
        rows = [{"row": label, "label": label, "reference": pathlib.Path(args.against).stem} | compared(a, b, args)]
    head = {"features": features.NETWORK, "bootstrap": "Bayesian, 95 %", "replicates": args.replicates, "seed": args.seed}
    tables.write(args, head, rows, COLUMNS)


if __name__ == "__main__":
    main()
