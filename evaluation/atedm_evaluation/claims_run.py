"""A claim's run on one model, with what the other programs of this package measured of it."""

import json
import pathlib
from dataclasses import dataclass

import numpy as np

from . import measures as statistics
from .layout import fail, read_lines, read_text

DOCUMENTS = ["unpruned", "held-out", "alignment", "classifier"]
"""The files of measures: quality.py against the unpruned pictures and against held-out renders, alignment.py, classifier.py."""


def read_json(path):
    """A JSON file. If it is wrong, ends the program with one line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        fail(path, str(error))


@dataclass
class Run:
    """A run of `atedm ablate` with its measures."""

    folder: pathlib.Path
    points: list[dict]
    documents: dict[str, dict]
    costs: dict[str, float]
    """TFLOPs of a mean evaluation, by point."""
    prompts: int
    facts: dict
    """What `atedm inspect --json` says about the model."""
    engine: str
    """The dtype and the backend of the pictures: `f32 on tch`."""

    @staticmethod
    def read(run, measures):
        """Reads a run's folder and the folder of its measures."""
        run, measures = pathlib.Path(run), pathlib.Path(measures)
        points = read_json(run / "run.json")["points"]
        costs, engines = {}, set()
        for record in read_lines(run / "results.jsonl", ["point", "prompt_id", "flops", "provenance"]):
            costs.setdefault(record["point"], []).append(record["flops"]["mean_tflop"])
            engines.add("{dtype} on {backend}".format_map(record["provenance"]))
        counts = {len(of_point) for of_point in costs.values()}
        if len(counts) != 1 or set(costs) != {point["id"] for point in points}:
            fail(run / "results.jsonl", "expected as many pictures of every point: finish the run first")
        documents = {name: read_json(measures / f"{name}.json") for name in DOCUMENTS}
        means = {id: sum(of_point) / len(of_point) for id, of_point in costs.items()}
        facts, engine = read_json(measures / "model.json"), " and ".join(sorted(engines))
        return Run(run, points, documents, means, counts.pop(), facts, engine)

    @property
    def settings(self):
        """The settings of the first point. Those of sampling are the same for all."""
        return self.points[0]["settings"]

    @property
    def name(self):
        """The model's name without its hash."""
        return self.settings["model"].split()[0]

    def row(self, document, point):
        """The row of a point in a document of measures; empty if it has none."""
        return next((row for row in self.documents[document]["rows"] if row["row"] == point["id"]), {})

    def saved(self, point):
        """The share of an unpruned evaluation's FLOPs that a point saves."""
        return 1 - self.costs[point["id"]] / point["whole_tflop"]

    def difference(self, point, other, document, key):
        """The mean of a measure minus that of another point, prompt by prompt, with its interval. None where no prompt has both. A
        picture that equals the unpruned one has no PSNR, so its prompt is left out."""
        replicates, seed = (self.documents["unpruned"][name] for name in ("replicates", "seed"))
        if key == "kid":
            own, others = (self.row(document, each).get("kid_replicates") for each in (point, other))
            if own is None or others is None or len(own) != len(others):
                return None
            return statistics.interval(np.subtract(own, others))
        own, others = (self.row(document, each).get("pictures", {}).get(key, {}) for each in (point, other))
        pairs = [(own[prompt], others[prompt]) for prompt in sorted(own) if prompt in others]
        pairs = [pair for pair in pairs if None not in pair]
        if not pairs:
            return None
        weights = statistics.bootstrap_weights(len(pairs), replicates, seed)
        return statistics.interval(statistics.weighted_means([a - b for a, b in pairs], weights))

    def levels(self):
        """Tokens and depth of the attention blocks, by level of resolution."""
        found = {}
        for block in self.facts["blocks"]:
            found.setdefault(block["level"], []).append((block["tokens"], block["depth"]))
        return {level: max(shapes) for level, shapes in sorted(found.items())}

    def described(self):
        """The model's name with its tokens: `atedm-shapes, 256 and 64 tokens`."""
        tokens = sorted({tokens for tokens, _ in self.levels().values()}, reverse=True)
        return f"{self.name}, {' and '.join(map(str, tokens))} tokens"


def label_of(point):
    """A point's name with the values that its entry varies."""
    varied = {key: value for key, value in point["varied"].items() if key != "budget_tflops"}
    words = [point["grid"] or point["settings"]["method"]]
    if "budget_tflops" in point["varied"]:
        budget = point["varied"]["budget_tflops"]
        words.append(f"{budget} of the cost" if isinstance(budget, str) else f"{budget * 1000:.2f} GFLOP")
    words += [f"{key} = {value}" for key, value in varied.items()]
    return ", ".join(words)
