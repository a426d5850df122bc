"""The arithmetic of the measures, and the programs on folders that the tests make."""

import json
import pathlib
import sys
import tempfile

import numpy as np
import pytest

from atedm_evaluation import features, layout, measures, quality
from support import called, close, save


def test_kid_is_the_double_loop():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(23, 5)), random.normal(0.3, 1.2, size=(17, 5))
    partners = np.full(23, -1)
    partners[[2, 9]] = [4, 0]
    weights_a, weights_b = measures.bootstrap_weights(23, 3, 1), measures.bootstrap_weights(17, 3, 2)
    expected = []
    for u, v in zip(weights_a, weights_b):
        total = 0
        for x, y, p, q, factor, kept in [
            (a, a, u, u, 1, lambda i, j: i != j),
            (b, b, v, v, 1, lambda i, j: i != j),
            (a, b, u, v, -2, lambda i, j: partners[i] != j),
        ]:
            pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if kept(i, j)]
            kernel = sum(p[i] * q[j] * (x[i] @ y[j] / 5 + 1) ** 3 for i, j in pairs)
            total += factor * kernel / sum(p[i] * q[j] for i, j in pairs)
        expected.append(total)
    close(measures.kid(a, b, weights_a, weights_b, partners), expected)
    block, measures.BLOCK = measures.BLOCK, 4
    close(measures.kid(a, b, weights_a, weights_b, partners), expected)
    measures.BLOCK = block


def test_kid_has_no_bias():
    """Over many draws, KID is zero between samples of one distribution, and between dependent pairs that are named. Its mean is that
    of the population's closed form, because k is a polynomial of independent signs."""
    random = np.random.default_rng(1)
    independent, paired, kept, shifted = [], [], [], []
    for _ in range(600):
        a, b = random.normal(size=(2, 20, 3))
        one = np.ones((1, 20))
        near = a + 0.1 * random.normal(size=(20, 3))
        near /= np.sqrt(1.01)  # again N(0, 1)
        independent.append(measures.kid(a, b, one, one)[0])
        paired.append(measures.kid(a, near, one, one, np.arange(20))[0])
        kept.append(measures.kid(a, near, one, one)[0])
        signs, others = np.sign(a[:, :1]), np.where(random.random((20, 1)) < 0.8, 1.0, -1.0)
        shifted.append(measures.kid(signs, others, one, one)[0])
    # 600 draws: 4 standard errors of the mean
    for values, expected in [(independent, 0), (paired, 0), (shifted, 0.6**2 * 4)]:
        error = np.std(values) / np.sqrt(600)
        assert abs(np.mean(values) - expected) < 4 * error, (np.mean(values), expected, error)
    assert np.mean(kept) < -20 * np.std(kept) / np.sqrt(600), "cross terms of pairs would go unnoticed"


def test_bootstrap_of_kid_is_about_its_value():
    random = np.random.default_rng(2)
    a, b = random.normal(size=(2, 60, 4))
    weights = measures.bootstrap_weights(60, 20000, 3)
    values = measures.kid(a, b, weights, weights, np.arange(60))
    assert abs(values[1:].mean() - values[0]) < 4 * values[1:].std() / np.sqrt(20000)


def test_intervals_hold_the_truth():
    """95 % intervals of a mean and of KID hold the true value in about 95 % of 400 draws."""
    random = np.random.default_rng(3)
    held_mean, held_kid = 0, 0
    for draw in range(400):
        values = random.exponential(size=100)
        weights = measures.bootstrap_weights(100, 400, draw)
        found = measures.interval(measures.weighted_means(values, weights))
        held_mean += found["low"] <= 1 <= found["high"]
        a, b = np.sign(random.random((100, 1)) - 0.5), np.sign(random.random((100, 1)) - 0.1)
        both = measures.bootstrap_weights(200, 200, draw)
        found = measures.interval(measures.kid(a, b, both[:, :100], both[:, 100:]))
        held_kid += found["low"] <= 0.8**2 * 4 <= found["high"]
    assert 0.90 <= held_mean / 400 <= 0.99, held_mean
    assert 0.90 <= held_kid / 400 <= 0.99, held_kid


def test_frechet_of_gaussians():
    random = np.random.default_rng(4)
    mean, other = random.normal(size=(2, 6))
    # commuting covariances: |m - m'|² + Σ (√λ - √λ')²
    basis = np.linalg.qr(random.normal(size=(6, 6)))[0]
    a, b = random.uniform(0.1, 3, size=(2, 6))
    expected = np.sum((mean - other) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    close(measures.frechet(mean, basis * a @ basis.T, other, basis * b @ basis.T), expected)
    # any two by two: tr (AB)^½ = √(tr AB + 2 √(det A det B))
    a, b = (x @ x.T for x in random.normal(size=(2, 2, 2)))
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    close(measures.frechet(np.zeros(2), a, np.zeros(2), b), np.trace(a) + np.trace(b) - 2 * root)
    # and of samples, also where there are fewer than dimensions
    x = random.normal(size=(50, 6)) @ random.normal(size=(6, 6))
    ones = np.ones((1, 50))
    close(measures.frechet_distances(x, x + mean, ones, ones), [mean @ mean], 1e-7)
    few = random.normal(size=(4, 6))
    close(measures.frechet_distances(few, few, np.ones((1, 4)), np.ones((1, 4))), [0], 1e-6)
    mean_x, covariance = measures.moments(x, np.ones(50))
    close(mean_x, x.mean(axis=0))
    close(covariance, np.cov(x, rowvar=False))
    counts = random.integers(0, 4, 50).astype(float)  # equal to copies, the divisor aside
    mean_x, covariance = measures.moments(x, counts)
    copies = np.repeat(x, counts.astype(int), axis=0)
    close(mean_x, copies.mean(axis=0))
    divisor = counts.sum() - (counts**2).sum() / counts.sum()
    close(covariance * divisor, np.cov(copies, rowvar=False) * (len(copies) - 1))
    values = measures.frechet_distances(x, x + mean, *[measures.bootstrap_weights(50, 20, s) for s in (1, 2)])
    close(values[1:].mean(), values[0])


def test_psnr_ssim_cosines():
    random = np.random.default_rng(5)
    a = random.integers(0, 250, (28, 40, 3), dtype=np.uint8)
    close(measures.psnr(a, a + 5), 20 * np.log10(255 / 5))
    assert measures.psnr(a, a) == np.inf
    close(measures.ssim(a, a), 1)
    flat, other = np.full((20, 20, 3), 100, np.uint8), np.full((20, 20, 3), 150, np.uint8)
    close(measures.ssim(flat, other), (2 * 100 * 150 + 2.55**2) / (100**2 + 150**2 + 2.55**2))
    close(measures.cosines([[3, 4], [1, 0], [0, 0]], [[4, 3], [0, 2], [1, 1]]), [0.96, 0, 0])
    pytest.importorskip("skimage", reason="scikit-image is not installed: SSIM was not compared with it")
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    b = np.clip(a + random.normal(0, 40, a.shape), 0, 255).astype(np.uint8)
    luma = [x.astype(float) @ [0.299, 0.587, 0.114] for x in (a, b)]
    flags = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    close(measures.ssim(a, b), structural_similarity(*luma, **flags))
    close(measures.psnr(a, b), peak_signal_noise_ratio(a, b, data_range=255))


def a_run(folder, random):
    """A run of two prompts and three points, as `atedm ablate` writes it: `none`, a point equal to it, and another."""
    lines, points = [], [("none", None), ("same", "none"), ("far", "none")]
    for index, prompt in enumerate(["fox", "owl", "bat"]):
        picture = random.integers(0, 200, (16, 16, 3), dtype=np.uint8)
        for point, _ in points:
            save(folder / f"images/{point}/{prompt}.png", picture + np.uint8(50 if point == "far" and index else 0))
            image = f"images/{point}/{prompt}.png"
            lines.append({"point": point, "prompt_id": prompt, "prompt": f"a {prompt}", "image": image})
    info = {"points": [{"id": id, "label": id, "reference": reference} for id, reference in points]}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut o')


def feature_file(path, folder, random):
    """Features of a folder's pictures that depend only on the picture: its mean colours, padded."""
    pictures = layout.pictures_under(folder)
    values = np.stack([layout.read_picture(picture).reshape(-1, 3).mean(axis=0) / 255 for picture in pictures.values()])
    features.write(path, folder, features.Features(list(pictures), np.pad(values, [(0, 0), (0, 1277)]), list(pictures.values())))


def test_rows_of_a_run():
    random = np.random.default_rng(6)
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        a_run(run, random)
        feature_file(run.parent / "run.npz", run / "images", random)
        json_file = run.parent / "out/rows.json"
        flags = ["--ablation", run, "--features", run.parent / "run.npz"]
        table = called(quality.main, *flags, "--json", json_file)
        assert "| same | none | 3 / 3, 3 pairs |" in table and "N = 3, below 5,000: not reported" in table, table
        assert "all 3 equal" in table and "(1 of 3 equal)" in table, table
        same, far = json.loads(json_file.read_text())["rows"]
        close(same["kid"]["value"], 0)
        assert same["psnr"]["value"] is None and same["ssim"]["value"] == 1 and same["fd_enl0"]["value"] is None
        close(far["psnr"]["value"], 20 * np.log10(255 / 50))
        assert far["n"] == {"pictures": 3, "reference": 3, "pairs": 3} and far["psnr"]["n"] == 2
        assert far["feature_cosine"]["low"] <= far["feature_cosine"]["value"] <= far["feature_cosine"]["high"] < 1
        called(quality.main, *flags, "--measures", "kid", "--per-picture", run.parent / "cosines.csv", "--per-point", run.parent / "kid.csv")
        lines = [line.split(",") for line in (run.parent / "kid.csv").read_text().splitlines()]
        assert [line[0] for line in lines] == ["point", "same", "far"] and lines[0][1:] == ["kid:lower"], lines
        close(float(lines[2][1]), far["kid"]["value"])
        lines = (run.parent / "cosines.csv").read_text().splitlines()
        assert lines[0] == "point,prompt,feature_cosine:higher" and len(lines) == 7, lines
        cosines = {tuple(line.split(",")[:2]): float(line.split(",")[2]) for line in lines[1:]}
        assert all(abs(cosines["same", prompt] - 1) < 1e-6 for _, prompt in cosines), cosines
        close(np.mean([value for (point, _), value in cosines.items() if point == "far"]), far["feature_cosine"]["value"])
        # the same bits again
        first = json_file.read_bytes()
        called(quality.main, *flags, "--json", json_file)
        assert json_file.read_bytes() == first
        table = called(quality.main, *flags, "--reference", "far", "--measures", "kid")
        assert table.count("| far | 3 / 3") == 2 and "SSIM" not in table, table
        feature_file(run.parent / "far.npz", run / "images/far", random)
        table = called(quality.main, *flags, "--reference", run.parent / "far.npz")
        assert table.count("3 / 3, 3 pairs") == 3 and "SSIM" not in table, table
        table = called(quality.main, run.parent / "far.npz", run.parent / "run.npz", "--anyway", "--fd-replicates", "3")
        assert "3 / 9, 0 pairs" in table and "biased" in table and "SSIM" not in table, table


def test_wrong_inputs_are_one_line():
    random = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run = folder / "run"
        a_run(run, random)
        feature_file(folder / "far.npz", run / "images/far", random)
        np.savez(folder / "foreign.npz", mu=[1])
        (folder / "text.npz").write_text("no archive")
        (folder / "empty").mkdir()
        for flags, words in [
            ([], "expected PICTURES and REFERENCE"),
            (["x.npz", folder / "far.npz"], "x.npz"),
            ([folder / "foreign.npz", folder / "far.npz"], "foreign.npz"),
            ([folder / "text.npz", folder / "far.npz"], "text.npz"),
            ([folder / "far.npz", folder / "far.npz", "--measures", "fid"], "kid, fd, pairs"),
            ([folder / "far.npz", folder / "far.npz", "--replicates", "1"], "--replicates"),
            ([folder / "far.npz", folder / "far.npz", "--reference", "x"], "--ablation"),
            ([folder / "far.npz", folder / "far.npz", "--per-picture", "x"], "--ablation"),
            (["--ablation", folder / "empty"], "run.json"),
            (["--ablation", run, "--features", folder / "far.npz"], "expected features of 'none/"),
            (["--ablation", run, "--reference", "nowhere"], "expected a point (none, same, far)"),
        ]:
            line = called(quality.main, *flags)
            assert line.startswith("error: ") and words in line, (flags, line)
        for folder_of, words in [(folder / "nowhere", "expected a folder"), (folder / "empty", "got none")]:
            line = called(features.main, folder_of, folder / "out.npz")
            assert words in line, line
        assert ".npz" in called(features.main, run, folder / "out.json")
        (run / "images/far/fox.png").write_bytes((run / "images/far/fox.png").read_bytes()[:60])
        assert "fox.png" in called(quality.main, folder / "far.npz", folder / "far.npz")
        assert called(quality.main, folder / "far.npz", folder / "far.npz", "--json", folder / "far.npz/x").startswith("error: ")


def test_layouts():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        picture = np.zeros((4, 4, 3), np.uint8)
        for name in ("00000", "00001", "masks/00000", ".atedm-1"):
            save(folder / f"{name}.png", picture)
        names = list(layout.pictures_under(folder))
        assert names == ["00000", "00001"], names
        for file, text in [
            ("captions.txt", "a\nb\n"),
            ("captions.txt", "00001\tb\n00000\ta\n"),
            ("list.tsv", "filepath\ttitle\nimages/p/00001.png\tb\nimages/p/00000.png\ta\n"),
            ("prompts.jsonl", '{"id": "00000", "prompt": "a", "seed": 1}\n{"id": "00001", "prompt": "b", "seed": 2}\n'),
        ]:
            (folder / file).write_text(text)
            assert layout.captions_of(folder, names, None if file == "captions.txt" else folder / file) == ["a", "b"], file
        for text in ("a\n", "00000\ta\n", "00000\ta\nb\n"):
            (folder / "captions.txt").write_text(text)
            try:
                layout.captions_of(folder, names)
            except SystemExit as exit:
                assert "captions.txt" in exit.code
            else:
                raise AssertionError(text)


def test_network():
    pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed: features were not computed")
    random = np.random.default_rng(8)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in ("a", "sub/b", "c"):
            save(folder / f"pictures/{name}.png", random.integers(0, 255, (16, 24, 3), dtype=np.uint8))
        called(features.main, folder / "pictures", folder / "all.npz", "--batch-size", "2")
        read = features.read(folder / "all.npz")
        assert read.names == ["a", "c", "sub/b"] and read.values.shape == (3, 1280) and read.values.min() >= 0
        one = features.Network().features({"b": folder / "pictures/sub/b.png"})
        close(read.values[2], one.values[0], 1e-4)
        assert measures.cosines(read.values[:1], read.values[1:2])[0] < 0.999
