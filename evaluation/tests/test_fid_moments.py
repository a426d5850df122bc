"""Moments merged from parts equal those of all images (needs NumPy)."""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from atedm_evaluation import fid_moments
PROGRAM = [sys.executable, "-m", "atedm_evaluation.fid_moments"]


def test_moments_merged_from_parts_are_those_of_all_images():
    random = np.random.default_rng(0)
    features = random.normal(0.4, 0.3, (500, 64)) @ random.normal(size=(64, 64)) + 10
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        parts = []
        for index, rows in enumerate(np.split(features, [1, 3, 250])):
            parts.append(str(folder / f"part-{index}.npz"))
            fid_moments.write(parts[-1], fid_moments.part_of(rows))
        whole = str(folder / "all.npz")
        subprocess.run([*PROGRAM, "merge", *parts, "--output", whole], check=True)
        with np.load(whole) as file:
            assert file["count"] == 500
            np.testing.assert_allclose(file["mu"], features.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(file["sigma"], np.cov(features, rowvar=False), rtol=1e-9, atol=1e-9)
        np.savez(folder / "foreign.npz", mu=features[0], sigma=np.eye(64))
        failed = subprocess.run([*PROGRAM, "merge", folder / "foreign.npz", "--output", whole],
                                capture_output=True, text=True)
        assert failed.returncode == 1 and "foreign.npz" in failed.stderr and failed.stderr.count("\n") == 1
    print("2 passed, 0 failed")

