"""A small convolutional net that reads what scenes of one object, or of two, show, and its file.

The net makes one map of features of the picture, at an eighth of its side. A learnt mask (a softmax over the map's places) says
where an object is. The features under the mask give colour, shape and size. The mask's mean place and its spread give position
and size. The mean and maximum over the whole map give the background. So the net need not learn an object anew at each place.

Scenes of two objects have two masks: the first is of the object at the left or at the top. The masks of such a net also depend on
the place, because two objects may look alike.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import network_file
from .labels import heads_of

BATCH = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.02
FORMAT = "atedm classifier 2"


class Classifier(nn.Module):
    """Pictures `[pictures, 3, side, side]` of 0..1 to logits by head. `classes` names each head's classes. `side` is the training
    size in pixels. `objects` is the number of objects in a scene, 1 or 2. `report` holds the results on renders."""

    def __init__(self, classes, side, objects):
        super().__init__()
        self.classes, self.side, self.objects, self.report = classes, side, objects, {}
        self.names = heads_of(objects)
        widths = (16, 32, 64)
        layers, before = [], 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers += [nn.Conv2d(before, before, 3, padding=1, bias=False), nn.BatchNorm2d(before), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.mask = nn.Conv2d(before if objects == 1 else before + 2, objects, 1)
        self.hidden = nn.Sequential(nn.Linear((2 + objects) * before + 5 * objects, 128), nn.ReLU())
        self.heads = nn.ModuleDict({head: nn.Linear(128, len(classes[head])) for head in self.names})

    def forward(self, pictures):
        features = self.features((pictures - 0.5) / 0.25)
        height, width = features.shape[2:]
        down, across = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        places = torch.stack([across.repeat(height), down.repeat_interleave(width)])  # [2, places]
        seen = features
        if self.objects > 1:
            seen = torch.cat([features, places.view(1, 2, height, width).expand(len(features), -1, -1, -1)], dim=1)
        mask = self.mask(seen).flatten(2).softmax(dim=2)
        features = features.flatten(2)
        places = torch.cat([places, places**2, places[:1] * places[1:]])
        object_features = torch.einsum("bcp,bop->boc", features, mask).flatten(1)
        pooled = [object_features, (mask @ places.T).flatten(1), features.mean(dim=2), features.amax(dim=2)]
        hidden = self.hidden(torch.cat(pooled, dim=1))
        return {head: layer(hidden) for head, layer in self.heads.items()}

    @torch.inference_mode()
    def told(self, pictures):
        """Class numbers `[pictures, heads]` of 8-bit pictures `[pictures, side, side, 3]`."""
        self.eval()
        parts = [self(as_inputs(torch.from_numpy(pictures[start : start + 256]))) for start in range(0, len(pictures), 256)]
        return np.concatenate([torch.stack([part[head].argmax(dim=1) for head in self.names], dim=1).numpy() for part in parts])

    def write(self, path):
        """Writes weights, classes and report."""
        network_file.write(path, self, {"format": FORMAT, "classes": self.classes, "side": self.side, "objects": self.objects})

    @classmethod
    def read(cls, path):
        """Reads what `write` wrote."""

        def build(words, _):
            if words["format"] != FORMAT:
                raise ValueError
            return cls(words["classes"], words["side"], words["objects"])

        return network_file.read(path, build, "weights of `classifier.py train`")


def as_inputs(pictures):
    """8-bit pictures `[pictures, height, width, 3]` in the form that the net takes."""
    return pictures.permute(0, 3, 1, 2).float() / 255


def augmented(pictures, random):
    """Renders `[pictures, 3, side, side]` changed to look a little like generated pictures: another contrast, brightness and tint,
    some blur, some noise, coarse or fine. Nothing is moved or mirrored, because labels name places."""
    count, _, height, width = pictures.shape

    def uniform(shape, low, high):
        return torch.rand(shape, generator=random) * (high - low) + low

    pictures = (pictures - 0.5) * uniform((count, 1, 1, 1), 0.85, 1.1) + 0.5
    pictures = pictures + uniform((count, 1, 1, 1), -0.06, 0.06) + uniform((count, 3, 1, 1), -0.03, 0.03)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    blurred = functional.conv2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    pictures = torch.lerp(pictures, blurred, uniform((count, 1, 1, 1), -0.3, 1.0))  # below 0 it sharpens
    fine = torch.randn(pictures.shape, generator=random)
    coarse = torch.randn((count, 3, height // 4, width // 4), generator=random)
    coarse = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    noise = fine * uniform((count, 1, 1, 1), 0, 0.04) + coarse * uniform((count, 1, 1, 1), 0, 0.05)
    return (pictures + noise).clamp(0, 1)


def fitted(pictures, targets, classes, objects, options, tell):
    """A net trained on 8-bit pictures `[pictures, side, side, 3]` of so many objects and class numbers `[pictures, heads]`. On one
    machine with one number of threads, a seed always gives the same net. `options` has steps and seed. `tell` gets a line now and
    then."""
    torch.manual_seed(options.seed)
    random = torch.Generator().manual_seed(options.seed)
    model = Classifier(classes, pictures.shape[1], objects).to(memory_format=torch.channels_last)
    pictures, targets = torch.from_numpy(pictures), torch.from_numpy(targets)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, options.steps + 1, pct_start=0.2)
    order = torch.empty(0, dtype=torch.long)
    model.train()
    for step in range(1, options.steps + 1):
        if len(order) < BATCH:
            order = torch.randperm(len(pictures), generator=random)
        chosen, order = order[:BATCH], order[BATCH:]
        inputs = augmented(as_inputs(pictures[chosen]), random).contiguous(memory_format=torch.channels_last)
        logits = model(inputs)
        losses = [functional.cross_entropy(logits[head], targets[chosen, place]) for place, head in enumerate(model.names)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == options.steps:
            tell(f"step {step} of {options.steps}: loss {loss.item():.4f}")
    return model.eval()
