"""The classifier of scenes, the shares of background, and the overlap of masks."""

import json
import pathlib
import sys
import tempfile

import numpy as np
import pytest

from atedm_evaluation import background, classifier, labels, overlap
from atedm_evaluation.layout import read_picture
from support import called, close, save

COLOURS = {"red": (222, 24, 28), "blue": (30, 60, 225)}
TONES = {"gray": (148, 148, 150), "pink": (240, 160, 190)}
PLACES = {"left": (0, -1), "right": (0, 1), "center": (0, 0)}


def scene(random, colour=None, positions=None):
    """A picture of 32 pixels with squares or bars before a background, and its labels. Without positions it shows one object
    anywhere."""
    def drawn(values):
        return str(random.choice(list(values)))

    kinds = [(drawn(COLOURS), drawn(["square", "bar"]), position, drawn(["small", "large"]))
             for position in positions or [drawn(PLACES)]]
    tone, style = drawn(TONES), drawn(["plain", "striped"])
    objects = [dict(zip(labels.OF_OBJECT, (colour or kind[0], *kind[1:]))) for kind in kinds]
    picture = np.empty((32, 32, 3), np.uint8)
    picture[:] = TONES[tone]
    if style == "striped":
        picture[::4] = picture[::4] // 10 * 7
    for words in objects:
        half = 6 if words["size"] == "large" else 3
        down, across = (16 + 9 * step for step in PLACES[words["position"]])
        high = half if words["shape"] == "square" else 1
        picture[down - high : down + high, across - half : across + half] = COLOURS[words["colour"]]
    caption = " and ".join(f"a {' '.join(words.values())}" for words in objects)
    return picture, {"id": "", "caption": f"{caption}, {style} {tone}", "relation": None, "objects": objects,
                     "background": {"style": style, "colour": tone}}


def scenes(folder, count, seed, **given):
    """A folder as `atedm scenes` writes it."""
    random, lines = np.random.default_rng(seed), []
    for index in range(count):
        picture, labels = scene(random, **given)
        labels["id"] = f"{index:05}"
        save(folder / f"{index:05}.png", picture)
        lines.append(labels)
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def test_wilson():
    """Compares with the interval's definition, and checks its width at the end."""
    for hits in ([1, 0, 1, 1], [1] * 50, [0] * 7, [0, 1] * 40):
        found = classifier.wilson(np.array(hits, dtype=bool))
        share, n = np.mean(hits), len(hits)
        for end in (found["low"], found["high"]):
            close((share - end) ** 2, classifier.NORMAL**2 * end * (1 - end) / n, 1e-12)
        assert found["low"] - 1e-12 <= share <= found["high"] + 1e-12 and found["high"] - found["low"] > 0.05 and found["n"] == n
    close(classifier.wilson(np.ones(50, bool))["low"], 50 / (50 + classifier.NORMAL**2))


def test_classifier_learns_and_scores():
    pytest.importorskip("torch", reason="torch is not installed: no classifier was trained")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        scenes(folder / "train", 500, 1)
        lines = scenes(folder / "held-out", 40, 2)
        flags = ["train", folder / "train", "--held-out", folder / "held-out", "--steps", "100"]
        table = called(classifier.main, *flags, "--output", folder / "a.npz", "--json", folder / "train.json")
        report = json.loads((folder / "train.json").read_text())["rows"]
        for head in ("colour", "shape", "position", "size", "style", "tone"):
            assert report[1][head]["value"] > 0.85 and report[1][head]["n"] == 40, table
        called(classifier.main, *flags[:-1], "5", "--output", folder / "b.npz")
        called(classifier.main, *flags[:-1], "5", "--output", folder / "c.npz")
        assert (folder / "b.npz").read_bytes() == (folder / "c.npz").read_bytes(), "training is not the same again"

        model = ["--model", folder / "a.npz", "--labels", folder / "held-out/labels.jsonl"]
        called(classifier.main, "score", folder / "held-out", *model, "--json", folder / "score.json")
        rows = json.loads((folder / "score.json").read_text())["rows"]
        assert rows[:2] == report and rows[2]["colour"] == report[1]["colour"] and rows[2]["object"] == report[1]["object"]

        for line in lines:
            name = f"{line['id']}.png"
            save(folder / "larger" / name, read_picture(folder / "held-out" / name).repeat(2, axis=0).repeat(2, axis=1))
        called(classifier.main, "score", folder / "larger", *model, "--json", folder / "larger.json")
        assert json.loads((folder / "larger.json").read_text())["rows"][2]["object"] == report[1]["object"], "larger pictures are averaged"

        # a run of three points: the renders, those of other scenes of the other colour, and one scene of two objects
        cells, results = folder / "run", []
        cells.mkdir()
        two = [dict(line) for line in lines]
        two[0]["objects"] = two[0]["objects"] * 2
        (folder / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in two))
        other = {"red": "blue", "blue": "red"}
        for number, line in enumerate(lines):
            name = f"{line['id']}.png"
            save(cells / "images/far" / name, scene(np.random.default_rng(99 + number), other[line["objects"][0]["colour"]])[0])
            (cells / "images/none").mkdir(exist_ok=True)
            (cells / "images/none" / name).write_bytes((folder / "held-out" / name).read_bytes())
            for point in ("none", "far"):
                results.append({"point": point, "prompt_id": line["id"], "prompt": line["caption"], "image": f"images/{point}/{name}"})
        points = [{"id": id, "label": id, "reference": of} for id, of in [("none", None), ("far", "none")]]
        (cells / "run.json").write_text(json.dumps({"points": points}))
        (cells / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
        flags = ["score", "--ablation", cells, "--model", folder / "a.npz", "--labels", folder / "two.jsonl"]
        table = called(classifier.main, *flags, "--json", folder / "run.json")
        none, far = json.loads((folder / "run.json").read_text())["rows"][2:]
        assert none["n"] == {"pictures": 39, "skipped": 1} and far["n"]["pairs"] == 39 and "39, 1 skipped" in table, table
        assert far["colour"]["value"] < 0.15 and far["object"]["value"] < 0.15 and "colour_difference" not in none
        close(far["colour_difference"]["value"], far["colour"]["value"] - none["colour"]["value"])

        wrong = folder / "wrong.jsonl"
        for change, words in [
            (lambda line: line.update(caption="a fox"), "'a fox', but the picture's prompt is"),
            (lambda line: line.update(id="x"), "expected labels of the picture '00003'"),
            (lambda line: line["objects"][0].update(colour="green"), "the colour 'green'"),
            (lambda line: line["objects"][0].pop("shape"), "scene '00003': expected colour, shape"),
        ]:
            changed = json.loads(json.dumps(lines))
            change(changed[3])
            wrong.write_text("".join(json.dumps(line) + "\n" for line in changed))
            line = called(classifier.main, *flags[:-1], wrong)
            assert line.startswith("error: ") and words in line, line
        for file in ("two.jsonl", "nowhere.npz"):
            line = called(classifier.main, "score", folder / "held-out", *model[2:], "--model", folder / file)
            assert line.startswith("error: ") and file in line, line
        save(folder / "small/00000.png", np.zeros((16, 16, 3), np.uint8))
        assert "expected 32 x 32" in called(classifier.main, "score", folder / "small", *model)
        pairs = scenes(folder / "pairs", 3, 4, positions=["left", "right"])
        for training, held_out, words in [("mixed", "pairs", "--objects one"), ("train", "pairs", "one object")]:
            (folder / "mixed").mkdir(exist_ok=True)
            (folder / "mixed/labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*pairs, *lines[3:]]))
            flags = ["train", folder / training, "--held-out", folder / held_out, "--output", folder / "d.npz"]
            line = called(classifier.main, *flags)
            assert line.startswith("error: ") and words in line, line


def test_hits_of_two_objects():
    """Gives the answers of a net, and checks what counts as right."""

    class Told:
        objects, names = 2, labels.heads_of(2)
        classes = {name: ["red", "blue"] if "colour" in name else ["square", "bar"] if "shape" in name
                   else ["left", "top"] if name == "position 1" else ["right", "bottom"] if name == "position 2"
                   else ["small", "large"] for name in labels.heads_of(2)}

        def told(self, answers):
            return np.array([[self.classes[name].index(words[name]) for name in self.names] for words in answers])

    asked = {"colour 1": "red", "shape 1": "square", "position 1": "left", "size 1": "small",
             "colour 2": "blue", "shape 2": "bar", "position 2": "right", "size 2": "large", "style": "small", "tone": "large"}
    swapped = asked | {"colour 1": "blue", "shape 1": "bar", "colour 2": "red", "shape 2": "square"}
    mixed = asked | {"colour 1": "blue", "colour 2": "red"}
    twice = asked | {"colour 2": "red"}
    below = asked | {"position 1": "top", "position 2": "bottom"}
    hits = classifier.hits_of(Told(), [asked, swapped, mixed, twice, below], [asked] * 5, "x")
    found = {name: hits[name].astype(int).tolist() for name in ("colour", "shape", "position", "pair", "object", "size", "tone")}
    assert found == {"colour": [1, 1, 1, 0, 1], "shape": [1] * 5, "position": [1, 1, 1, 1, 0], "pair": [1, 1, 0, 0, 1],
                     "object": [1, 0, 0, 0, 0], "size": [1] * 5, "tone": [1] * 5}, found


def test_classifier_of_two_objects_learns():
    pytest.importorskip("torch", reason="torch is not installed: no classifier was trained")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        scenes(folder / "train", 500, 1, positions=["right", "left"])
        lines = scenes(folder / "held-out", 40, 2, positions=["right", "left"])
        assert labels.labels_of(folder / "held-out/labels.jsonl")["00000"][2]["colour 1"] == lines[0]["objects"][1]["colour"]
        flags = ["train", folder / "train", "--held-out", folder / "held-out", "--steps", "150", "--output", folder / "a.npz"]
        table = called(classifier.main, *flags, "--json", folder / "train.json")
        report = json.loads((folder / "train.json").read_text())["rows"]
        assert report[1]["pair"]["value"] > 0.85 and report[1]["object"]["value"] > 0.85 and report[1]["object"]["n"] == 40, table
        # pictures of the same objects in each other's place: both are there, and where they should not be
        for line in lines:
            first, second = line["objects"]
            first["position"], second["position"] = second["position"], first["position"]
        (folder / "swapped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        flags = ["score", folder / "held-out", "--model", folder / "a.npz", "--labels", folder / "swapped.jsonl"]
        called(classifier.main, *flags, "--json", folder / "score.json")
        row = json.loads((folder / "score.json").read_text())["rows"][2]
        alike = np.mean([first["colour"] == second["colour"] and first["shape"] == second["shape"] for first, second in
                         (line["objects"] for line in lines)])
        close(row["pair"]["value"], report[1]["pair"]["value"])
        assert abs(row["object"]["value"] - alike) < 0.15, (row["object"], alike)


def test_background_of_a_grid():
    mask = np.zeros((8, 8))
    mask[:4, :3] = 255  # the first patch of a grid of 2 is object for three quarters
    mask[4:, 4] = 255  # the last for one
    assert background.background_of(mask, 2, 2, "x").tolist() == [False, True, True, True]
    # of 4 × 4 patches of 2 × 2 pixels: half object is object
    found = background.background_of(mask, 4, 4, "x").reshape(4, 4)
    assert np.flatnonzero(~found).tolist() == [0, 1, 4, 5, 10, 14], found
    try:
        background.background_of(mask, 3, 3, "masks/x.png")
    except SystemExit as exit:
        assert "masks/x.png" in exit.code
    else:
        raise AssertionError("3 does not divide 8")
    assert [background.first_step(10, strength) for strength in (0.2, 0.6, 1.0)] == [8, 4, 0]
    assert background.method_of("r=at-edm:scorer=random,tau=0") == ("r", "at-edm", "scorer=random,tau=0")


def test_overlap_of_masks():
    a, b = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool), np.array([[1, 0, 1, 0], [1, 0, 1, 0]], dtype=bool)
    counts = overlap.counts_of({"layer": {0: a, 1: b, 5: a}})
    # kept 4 of 8, thrice; of 4 in step 0 three again in step 1, nothing follows 1 and 5; the halves share 1, 2, 1 of 2
    assert counts.tolist() == [[12, 24], [3, 4], [8, 12], [3, 8]], counts
    pytest.importorskip("safetensors", reason="safetensors is not installed: no file of masks was read")
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder)
        (run / "masks" / "a").mkdir(parents=True)
        (run / "run.json").write_text('{"points": [{"id": "a", "label": "A", "reference": null}]}')
        (run / "results.jsonl").write_text('{"point": "a", "prompt_id": "0", "prompt": "", "image": "0.png"}\n')
        assert "masks" in called(overlap.main, str(run))
        site = np.array([4, 2, 2, 0])
        tensors = {"step.3.mid.0.0.layer.0.kept": np.array([[0, 1], [0, 2]]), "step.3.mid.0.0.layer.0.site": site}
        later = {"step.3.mid.0.0.layer.1.kept": np.array([[0], [1]]), "step.3.mid.0.0.layer.1.site": np.array([2, 2, 2, 0]),
                 "step.3.mid.0.0.layer.1.positions": np.array([[0, 1], [0, 2]])}
        save_file(tensors | later, run / "masks" / "a" / "0.safetensors")
        row = overlap.rows_of(run, 0, 10)[0]
        assert (row["label"], row["n"]["pictures"], "next" in row) == ("A, 2 × 2", 1, False)
        assert [row[key]["value"] for key in ("kept", "half", "never")] == [0.5, 0.5, 0.5]
        save_file({"step.3.mid.0.0.layer.0.kept": np.array([[0, 9]]), "step.3.mid.0.0.layer.0.site": site}, run / "masks" / "a" / "0.safetensors")
        assert "step.3.mid.0.0.layer.0" in called(overlap.main, str(run))


PROGRAM = """#!{python}
import sys, json, pathlib
import numpy as np
from safetensors.numpy import save_file
arguments = [word for word in sys.argv[2:] if word != "--quiet"]
flags = dict(zip(arguments[::2], arguments[1::2]))
with open({log!r}, "a") as log:
    log.write(json.dumps(flags) + "\\n")
if flags["--prune"] == "broken":
    sys.exit("error: --prune: no method is called 'broken'")
step = 10 - int(10 * float(flags["--strength"]))
# of 16 tokens whose first four are object: two rows keep the object and one more token; later steps keep other things
kept = np.array([[0, 1, 2, 3, 9], [0, 1, 2, 3, 15]], dtype=np.int64)
tensors = {{f"step.{{step}}.down.1.0.layer.0.kept": kept, f"step.{{step}}.down.1.0.layer.0.site": np.array([16, 4, 4, 0]),
           # the second layer's stream: tokens 0, 4 and 5 are left, and 5 is kept
           f"step.{{step}}.down.1.0.layer.1.kept": np.array([[2]]), f"step.{{step}}.down.1.0.layer.1.site": np.array([3, 4, 4, 0]),
           f"step.{{step}}.down.1.0.layer.1.positions": np.array([[0, 4, 5]]),
           f"step.{{step}}.mid.0.layer.0.kept": np.array([[1]]), f"step.{{step}}.mid.0.layer.0.site": np.array([4, 2, 2, 0]),
           f"step.{{step + 1}}.down.1.0.layer.0.kept": np.array([[7]]), f"step.{{step + 1}}.down.1.0.layer.0.site": np.array([16, 4, 4, 1])}}
if flags["--prune"] == "none":
    tensors = {{"x": kept}}
save_file(tensors, flags["--masks-out"])
pathlib.Path(flags["--output"]).write_bytes(b"picture")
"""


def test_background_of_a_run():
    """Uses a program that always prunes the same tokens. Checks the counts, the program's flags, and that nothing is made twice."""
    pytest.importorskip("safetensors", reason="safetensors is not installed: no files of masks were read")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        program, log, output = folder / "atedm", folder / "calls.jsonl", folder / "out"
        program.write_text(PROGRAM.format(python=sys.executable, log=str(log)))
        program.chmod(0o755)
        mask = np.zeros((16, 16, 3), np.uint8)
        mask[:4] = 255  # the first four of 4 × 4 tokens; half of the first two of 2 × 2, which counts as object
        for name in ("00000", "00001"):
            save(folder / f"scenes/{name}.png", mask)
            save(folder / f"scenes/masks/{name}.png", mask)
        (folder / "scenes/prompts.tsv").write_text("00000\ta red bar\n00001\ta blue bar\n")
        flags = [folder / "scenes", "--output", output, "--atedm", program, "--strengths", "0.4,0.8", "--json", folder / "out.json"]
        one = ["--method", "ours=at-edm:tau=0"]
        table = called(background.main, *flags, *one, "--jobs", "2")
        rows = json.loads((folder / "out.json").read_text())["rows"]
        assert [row["label"] for row in rows[:2]] == ["ours, strength 0.4, 4 × 4", "ours, strength 0.4, 2 × 2"] and len(rows) == 4
        # layer 0: 2 rows prune 11 background tokens of 11, of 16 with 12; layer 1 prunes tokens 0 (object) and 4
        close(rows[0]["pruned"]["value"], (22 + 1) / (22 + 2))
        close(rows[0]["chance"]["value"], (24 + 2) / (32 + 3))
        close(rows[0]["object_kept"]["value"], 8 / 9)
        close(rows[0]["kept"]["value"], (10 + 1) / 35)
        assert rows[0]["n"] == {"pictures": 2} and rows[0]["tokens"] == {"pruned": 48, "all": 70} and "| chance | 2 |" in table
        calls = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(calls) == 4 and all("--model" not in call and call["--prune-opt"] == "tau=0" for call in calls)
        assert {(call["--prompt"], call["--seed"]) for call in calls} == {("a red bar", "0"), ("a blue bar", "1")}
        first = (folder / "out.json").read_bytes()
        (output / "ours/strength-0.4/00001.safetensors").unlink()
        called(background.main, *flags, *one)
        assert len(log.read_text().splitlines()) == 5 and (folder / "out.json").read_bytes() == first
        called(background.main, *flags, *one, "--method", "again=at-edm")
        assert len(log.read_text().splitlines()) == 9

        for extra, words in [
            (["--method", "ours=at-edm:tau=1"], "settings"),
            ([*one, "--steps", "20"], "settings"),
            ([*one, "--model", "elsewhere"], "settings"),
            (["--method", "x=broken"], "no method is called 'broken'"),
            (["--method", "y=none"], "no token was pruned at step 6 of 10"),
            (["--method", "nothing"], "LABEL=NAME"),
            (["--strengths", "0.01"], "--strengths"),
            ([*one, "--count", "0"], "--count"),
        ]:
            line = called(background.main, *flags, *extra)
            assert line.startswith("error: ") and words in line, (extra, line)
        (output / "ours/strength-0.4/00001.safetensors").write_bytes(b"cut off")
        assert "00001.safetensors" in called(background.main, *flags, *one)
        (folder / "scenes/masks/00001.png").unlink()
        assert "masks/00001.png" in called(background.main, *flags, *one)
