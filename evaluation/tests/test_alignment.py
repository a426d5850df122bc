"""The caption-alignment score, its arithmetic and its program."""

import itertools
import json
import pathlib
import sys
import tempfile

import numpy as np
import pytest

from atedm_evaluation import alignment, features
from support import called, close


def test_retrieval_among_distractors():
    """Compares with all choices of 3 of 7 other captions."""
    for rivals in range(8):
        choices = list(itertools.combinations(range(7), 3))
        expected = np.mean([all(other >= rivals for other in choice) for choice in choices])
        close(alignment.chance_among([rivals], 7, 3), [expected])

    class Model:
        def similarities(self, values, captions, source):
            return np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]])

    # the first picture's caption wins, the second's is level with another, the third's is the last
    found = alignment.scores(Model(), None, ["a", "b", "c"], ["a", "b", "c"], "")
    close(found, [[0.9, 0.5, 0.1], [1, 0, 0], [1, 0, 0]])


def test_alignment_learns_and_is_kept():
    """Training, the file, and scores of pictures and of a run, on features that are made of the caption's words."""
    pytest.importorskip("torch", reason="torch is not installed: no alignment was trained")
    random = np.random.default_rng(9)
    words = {word: random.normal(size=1280) for word in ["red", "blue", "left", "right", "circle", "cross", "a"]}

    def scenes(path, count):
        drawn = [" ".join(["a", *(random.choice(x) for x in (["red", "blue"], ["circle", "cross"], ["left", "right"]))])
                 for _ in range(count)]
        values = np.stack([sum(words[word] for word in text.split()) for text in drawn]) + random.normal(size=(count, 1280))
        names = [f"{index:05}" for index in range(count)]
        path.mkdir()
        (path / "captions.txt").write_text("\n".join(drawn) + "\n")
        features.write(f"{path}.npz", path, features.Features(names, np.float32(values), []))
        return drawn, np.float32(values)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        scenes(folder / "train", 400)
        captions, values = scenes(folder / "held-out", 60)
        flags = ["train", folder / "train", "--features", folder / "train.npz", "--held-out", folder / "held-out",
                 "--held-out-features", folder / "held-out.npz", "--steps", "40", "--output", folder / "model.npz"]
        table = called(alignment.main, *flags, "--json", folder / "train.json")
        report = json.loads((folder / "train.json").read_text())["rows"]
        assert report[1]["top1_of_all"]["value"] > 0.95 and report[1]["n"] == {"pictures": 60, "candidates": 8}, table
        first = (folder / "model.npz").read_bytes()
        called(alignment.main, *flags)
        assert (folder / "model.npz").read_bytes() == first, "training is not the same again"
        model = ["--model", folder / "model.npz"]
        called(alignment.main, "score", folder / "held-out.npz", *model, "--json", folder / "a.json")
        rows = json.loads((folder / "a.json").read_text())["rows"]
        close(rows[2]["cosine"]["value"], report[1]["cosine"]["value"], 1e-6)
        # captions in another order are wrong ones
        (folder / "wrong.txt").write_text("\n".join(captions[1:] + captions[:1]) + "\n")
        flags = ["score", folder / "held-out.npz", *model, "--captions", folder / "wrong.txt"]
        called(alignment.main, *flags, "--json", folder / "b.json")
        wrong = json.loads((folder / "b.json").read_text())["rows"][2]
        assert wrong["top1_of_all"]["value"] < 0.4 and wrong["cosine"]["value"] < rows[2]["cosine"]["value"] - 0.3

        cells = folder / "run"
        cells.mkdir()
        ids, lines = ["x", "y", "z"], []
        for point, chosen in [("none", [0, 1, 2]), ("far", [1, 2, 0])]:
            for id, caption in zip(ids, captions):
                lines.append({"point": point, "prompt_id": id, "prompt": caption, "image": f"images/{point}/{id}.png"})
        info = {"points": [{"id": id, "label": id, "reference": of} for id, of in [("none", None), ("far", "none")]]}
        (cells / "run.json").write_text(json.dumps(info))
        (cells / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        names = [f"{point}/{id}" for point in ("none", "far") for id in ids]
        features.write(folder / "run.npz", cells / "images", features.Features(names, values[[0, 1, 2, 1, 2, 0]], []))
        flags = ["score", "--ablation", cells, "--features", folder / "run.npz", *model]
        table = called(alignment.main, *flags, "--json", folder / "c.json")
        none, far = json.loads((folder / "c.json").read_text())["rows"][2:]
        assert "cosine_difference" not in none and far["n"]["pairs"] == 3, table
        close(far["cosine_difference"]["value"], far["cosine"]["value"] - none["cosine"]["value"])
        called(alignment.main, *flags, "--per-picture", folder / "cosines.csv")
        lines = [line.split(",") for line in (folder / "cosines.csv").read_text().splitlines()]
        assert lines[0] == ["point", "prompt", "caption_cosine:higher"] and len(lines) == 7, lines
        close(np.mean([float(value) for point, _, value in lines[1:] if point == "far"]), far["cosine"]["value"])

        (folder / "wrong.txt").write_text("a red fox left\n" + "a red circle left\n" * 59)
        for flags, words_of in [
            ([folder / "held-out.npz", "--captions", folder / "wrong.txt"], "'fox' is in no training caption"),
            ([folder / "held-out.npz", "--captions", folder / "nowhere.txt"], "nowhere.txt"),
            (["--ablation", cells, "--features", folder / "run.npz", "--reference", "x"], "expected a point (none, far)"),
            (["--ablation", cells, "--captions", "x"], "--captions"),
            ([folder / "held-out.npz", "--per-picture", "x.csv"], "--per-picture"),
            ([], "expected PICTURES or --ablation RUN"),
        ]:
            line = called(alignment.main, "score", *flags, *model)
            assert line.startswith("error: ") and words_of in line, line
        for file in ("train.npz", "wrong.txt", "nowhere.npz"):
            line = called(alignment.main, "score", folder / "held-out.npz", "--model", folder / file)
            assert line.startswith("error: ") and file in line, line
