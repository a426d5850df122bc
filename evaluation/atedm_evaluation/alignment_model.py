"""Two networks map pictures and captions into one space of 128 numbers. The picture's network is a linear projection of frozen
EfficientNet-Lite0 features. The caption's network is a small net over learnt tokens. They are trained with CLIP's loss (Radford
et al., Learning transferable visual models from natural language supervision, 2021, figure 3): cross entropy of scaled cosines
over a batch, in both directions.

A caption's token is a word with its two neighbours and its place, so "red circle left of blue square" and its reverse differ.
The net has a hidden layer on each token, then their mean, then a projection.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import network_file
from .features import NETWORK
from .layout import fail

DIM = 128
"""Dimensions of the common space."""
BATCH = 256
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1


def words_of(caption):
    """A caption's words in lower case."""
    return caption.lower().replace(",", " ").replace(".", " ").split()


class Vocabulary:
    """The words of the training captions, and the length of the longest of these."""

    def __init__(self, words, length):
        self.words, self.length = list(words), length
        self.ids = {word: id for id, word in enumerate(self.words, 1)}  # 0 means no word

    @classmethod
    def of(cls, captions):
        """The caption's network."""
        split = [words_of(caption) for caption in captions]
        return cls(sorted({word for words in split for word in words}), max(map(len, split)))

    def encode(self, captions, source):
        """Ids `[captions, length]`. `source` is the name for errors."""
        ids = torch.zeros(len(captions), self.length, dtype=torch.long)
        for row, caption in enumerate(captions):
            words = words_of(caption)
            unknown = [word for word in words if word not in self.ids]
            if unknown or not 1 <= len(words) <= self.length:
                reason = f"the word {unknown[0]!r} is in no training caption" if unknown else f"{len(words)} words"
                fail(source, f"caption {caption!r}: expected 1 to {self.length} words of the training captions: {reason}")
            ids[row, : len(words)] = torch.tensor([self.ids[word] for word in words])
        return ids


class Captions(nn.Module):
    """Ids `[captions, length]` to `[captions, DIM]` of length 1."""

    def __init__(self, vocabulary, channels=64, hidden=256):
        super().__init__()
        self.tokens = nn.Embedding(len(vocabulary.words) + 1, channels, padding_idx=0)
        self.places = nn.Parameter(torch.randn(vocabulary.length, channels) * 0.1)
        self.hidden = nn.Sequential(nn.Linear(3 * channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.projection = nn.Linear(hidden, DIM)

    def forward(self, ids):
        tokens, known = self.tokens(ids), (ids > 0)[..., None]
        before, after = functional.pad(tokens, (0, 0, 1, 0))[:, :-1], functional.pad(tokens, (0, 0, 0, 1))[:, 1:]
        hidden = self.hidden(torch.cat([before, tokens + self.places, after], dim=-1)) * known
        return functional.normalize(self.projection(hidden.sum(dim=1) / known.sum(dim=1)), dim=-1)


class Pictures(nn.Module):
    """Features `[pictures, 1280]` to `[pictures, DIM]` of length 1. They are standardised by the training pictures and projected."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.projection = nn.Linear(channels, DIM)

    def fit(self, features):
        """Sets mean and deviation. A feature that hardly moves in training must not dominate the others in other pictures."""
        deviations = features.std(dim=0)
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(deviations.clamp(min=0.1 * deviations.mean().item()))

    def forward(self, features):
        return functional.normalize(self.projection((features - self.mean) / self.scale), dim=-1)


class Alignment(nn.Module):
    """Both networks and their vocabulary. `report` holds their results on held-out renders."""

    def __init__(self, vocabulary, channels):
        super().__init__()
        self.vocabulary, self.report = vocabulary, {}
        self.captions, self.pictures = Captions(vocabulary), Pictures(channels)

    @torch.inference_mode()
    def similarities(self, features, captions, source):
        """Cosines `[pictures, captions]` in f64."""
        pictures = self.pictures(torch.from_numpy(np.asarray(features, dtype=np.float32)))
        return (pictures @ self.captions(self.vocabulary.encode(captions, source)).T).double().numpy()

    def write(self, path):
        """Writes weights, vocabulary and report."""
        words = {"network": NETWORK, "words": self.vocabulary.words, "length": self.vocabulary.length}
        network_file.write(path, self, words)

    @classmethod
    def read(cls, path):
        """Reads what `write` wrote."""

        def build(words, weights):
            if words["network"] != NETWORK:
                fail(path, f"expected a model of {NETWORK}, got one of {words['network']}")
            return cls(Vocabulary(words["words"], words["length"]), len(weights["pictures.mean"]))

        return network_file.read(path, build, "a model of `alignment.py train`")


def trained(features, captions, steps, seed):
    """A model trained on features `[pictures, 1280]` of pictures with captions. On one machine, a seed always gives the same model."""
    torch.manual_seed(seed)
    features, vocabulary = torch.from_numpy(features), Vocabulary.of(captions)
    model = Alignment(vocabulary, features.shape[1])
    model.pictures.fit(features)
    ids = vocabulary.encode(captions, "captions")
    _, texts = np.unique(captions, return_inverse=True)
    texts = torch.from_numpy(texts)
    log_scale = nn.Parameter(torch.tensor(10.0).log())
    parameters = [*model.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    batch, order = min(BATCH, len(features)), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(features))
        rows, order = order[:batch], order[batch:]
        cosines = model.pictures(features[rows]) @ model.captions(ids[rows]).T
        # two scenes with the same caption are not negatives of each other
        same = (texts[rows][:, None] == texts[rows]) & ~torch.eye(batch, dtype=torch.bool)
        logits = (cosines * log_scale.exp().clamp(max=100)).masked_fill(same, -torch.inf)
        target = torch.arange(batch)
        loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()
