"""Writes experiment/fixtures/measures.json: intervals and paired differences as `atedm_evaluation` gives them for a small table.

    PYTHONPATH=evaluation python tests/python/measures_reference.py

The values are invented. It needs NumPy alone.
"""

import json
import pathlib

import numpy as np

from atedm_evaluation import claims_table, measures

FILE = pathlib.Path(__file__).resolve().parents[2] / "experiment/fixtures/measures.json"
REPLICATES, SEED = 1000, 0


def median(values, weights):
    """Weighted medians of distinct values: the value at which the sorted weights pass half of their sum."""
    order = np.argsort(values)
    passed = np.cumsum(weights[:, order], axis=1) > weights.sum(axis=1, keepdims=True) / 2
    return np.asarray(values)[order][passed.argmax(axis=1)]


def main():
    random = np.random.default_rng(7)
    ids = [f"p{number:02}" for number in range(13)]
    baseline = np.round(20 + 4 * random.standard_normal(13), 3)
    point = np.round(baseline + 0.4 + random.standard_normal(13), 3)
    point[4] = baseline[4]
    names = {"base": baseline, "other": point}
    points = [{"id": name, "settings": {"method": "at-edm"}} for name in names]
    records = [
        # a picture that equals the unpruned one has no PSNR
        {"point": name, "prompt_id": id, "distances": {"psnr": None if (name, id) == ("base", "p02") else float(value)}}
        for name, values in names.items()
        for id, value in zip(ids, values)
    ]
    paired = claims_table.paired_differences(points, records, REPLICATES, SEED)["other"]["psnr_difference"]
    weights = measures.bootstrap_weights(13, REPLICATES, SEED)
    # the baseline is infinite at p02, where the point loses
    wins = np.where(point > baseline, 1.0, np.where(point == baseline, 0.5, 0.0))
    wins[2] = 0
    document = {
        "baseline": [None if id == "p02" else value for id, value in zip(ids, baseline.tolist())],
        "point": point.tolist(),
        "mean": measures.interval(measures.weighted_means(point, weights)),
        "median": measures.interval(median(point, weights)),
        "difference": paired,
        "win_rate": measures.interval(measures.weighted_means(wins, weights)),
    }
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
