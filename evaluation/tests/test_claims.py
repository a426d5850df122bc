"""The tables of the claims: blocks of models, differences prompt by prompt, and the curve."""

import json

from atedm_evaluation import claims_table
from atedm_evaluation.claims_run import Run, label_of
from support import called

PAGE = "before\n<!-- table: {} -->\nold\n<!-- end -->\nafter\n"


def point(id, grid, method="at-edm", varied=None, ratio=None):
    options = {} if ratio is None else {"ratio": ratio}
    settings = {"model": "small 0123 (built in)", "method": method, "options": options, "steps": 25, "guidance_scale": 4.0}
    return {"id": id, "grid": grid, "label": id, "varied": varied or {}, "settings": settings, "whole_tflop": 0.002}


def measure(value):
    return {"value": value, "low": value - 1, "high": value + 1}


def row(id, pictures, n=2, **values):
    return {"row": id, "label": id, "reference": "none", "n": {"pictures": n, "reference": 8, "candidates": 5}, "pictures": pictures} | values


def written(folder, model="small", tokens=(64, 16)):
    """A run with two pruned points and its measures."""
    run, measures = folder / "run", folder / "measures"
    run.mkdir(parents=True)
    measures.mkdir()
    points = [
        point("none", "none", "none"),
        point("a", "AT-EDM", varied={"budget_tflops": "80%"}, ratio=0.5),
        point("b", "AT-EDM", varied={"budget_tflops": "70%"}, ratio=0.75),
        point("c", "levels", varied={"levels": [2]}, ratio=0.5),
    ]
    for each in points:
        each["settings"]["model"] = f"{model} 0123 (built in)"
    (run / "run.json").write_text(json.dumps({"points": points}))
    cost = {"none": 0.002, "a": 0.0016, "b": 0.0014, "c": 0.0018}
    made = {"dtype": "bf16", "backend": "tch"}
    lines = [{"point": p, "prompt_id": q, "flops": {"mean_tflop": cost[p]}, "provenance": made} for p in cost for q in ("x", "y")]
    (run / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    psnr = {"a": {"x": 20.0, "y": 30.0}, "b": {"x": 18.0, "y": None}, "c": {"x": 25.0, "y": 31.0}}
    quality = [
        row(id, {"psnr": own, "ssim": {"x": 0.5, "y": 0.5}, "feature_cosine": {"x": 0.9, "y": 0.9}}, psnr=measure(25.0),
            ssim=measure(0.5), feature_cosine=measure(0.9), kid=measure(0.01), kid_replicates=[0.01 if id == "a" else 0.03, 0.0, 0.02])
        for id, own in psnr.items()
    ]
    hits = {"none": (1, 1), "a": (1, 0), "b": (0, 0), "c": (1, 1)}
    told = [
        row(id, {"object": {"x": x, "y": y}}, colour=measure(1), shape=measure(1), position=measure(1), object=measure((x + y) / 2),
            object_difference=measure(-0.25))
        for id, (x, y) in hits.items()
    ]
    renders = row("renders, held-out combinations", {}, colour=measure(1), shape=measure(1), position=measure(0.5), n=100)
    aligned = [row(id, {"top1_of_33": {"x": 1, "y": 0}}, top1_of_33=measure(0.5), top1_of_33_difference=measure(-0.1)) for id in hits]
    head = {"bootstrap": "Bayesian, 95 %", "replicates": 2, "seed": 0}
    for name, rows in {"unpruned": quality, "held-out": quality, "classifier": [renders, *told], "alignment": aligned}.items():
        (measures / f"{name}.json").write_text(json.dumps(head | {"rows": rows}))
    blocks = [{"level": level, "tokens": count, "depth": depth} for level, count, depth in zip((1, 2), tokens, (2, 4))]
    (measures / "model.json").write_text(json.dumps({"blocks": blocks}))
    return run, measures


def test_differences_are_paired_by_prompt(tmp_path):
    run = Run.read(*written(tmp_path))
    _, a, b, c = run.points
    assert run.difference(b, a, "unpruned", "psnr")["value"] == -2.0  # y has no PSNR under b
    assert run.difference(c, a, "unpruned", "psnr")["value"] == 3.0
    assert abs(run.difference(b, a, "unpruned", "kid")["value"] - 0.02) < 1e-12
    assert run.difference(b, a, "classifier", "object")["value"] == -0.5
    assert run.difference(b, a, "held-out", "nothing") is None
    assert run.levels() == {1: (64, 2), 2: (16, 4)}
    assert run.described() == "small, 64 and 16 tokens"


def test_a_table_has_a_block_for_each_model(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format("curve"))
    runs = [written(tmp_path / "one"), written(tmp_path / "two", "large", (256, 64))]
    flags = [flag for pair in runs for flag in ("--run", *pair)]
    assert called(claims_table.main, "curve", *flags, "--page", page) == ""
    text = page.read_text()
    assert text.startswith("before\n<!-- table: curve -->\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert "| PSNR to the unpruned picture (dB) | small, 64 and 16 tokens: 80% of the cost |" in text
    assert "| **large, 256 and 64 tokens** |" in text
    assert "| AT-EDM, 80% of the cost | 0.500 | 1.600 | 20.0 | 25.00 [24.00, 26.00] |" in text
    # a loss is a difference with its sign turned, and its bounds too
    assert "25.0 [-75.0, 125.0]" in text
    assert "| AT-EDM, 70% of the cost | AT-EDM, 80% of the cost | -2.00 [-2.00, -2.00] |" in text
    assert "50.0 % for position" in text
    assert "bf16 on tch. Brackets" in text
    assert "\n`evaluation/claims.sh curve`\n" in text


def test_budgets_are_shares_or_flops():
    assert label_of(point("a", "AT-EDM", varied={"budget_tflops": "80%", "tau": 3})) == "AT-EDM, 80% of the cost, tau = 3"
    assert label_of(point("a", "AT-EDM", varied={"budget_tflops": 0.00138})) == "AT-EDM, 1.38 GFLOP"


def test_levels_are_sorted_by_tokens_and_depth(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format("level"))
    runs = [written(tmp_path / "one", "large", (256, 64)), written(tmp_path / "two")]
    flags = [flag for pair in runs for flag in ("--run", *pair)]
    called(claims_table.main, "level", *flags, "--command", "N=2 evaluation/claims.sh level", "--page", page)
    assert "\n`N=2 evaluation/claims.sh level`\n" in page.read_text()
    rows = [line for line in page.read_text().splitlines() if line.startswith("| levels |")]
    assert [row.split(" | ")[1:4] for row in rows] == [["16", "4", "small"], ["64", "4", "large"]]


def test_unfinished_runs_and_missing_markers_are_told(tmp_path):
    run, measures = written(tmp_path / "one")
    page = tmp_path / "page.md"
    page.write_text("no markers\n")
    assert "expected the markers of 'tau' once, got 0" in called(claims_table.main, "tau", "--run", run, measures, "--page", page)
    lines = (run / "results.jsonl").read_text().splitlines()
    (run / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert "finish the run first" in called(claims_table.main, "tau", "--run", run, measures, "--page", page)
    assert "expected --run, or --markdown, or --empty" in called(claims_table.main, "tau", "--page", page)
