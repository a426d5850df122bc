"""The labels of composed scenes (labels.jsonl of `atedm scenes`), and what a classifier reads of them."""

from .layout import fail, read_lines

OF_OBJECT = ("colour", "shape", "position", "size")
"""What labels say of every object."""
OF_BACKGROUND = ("style", "tone")
COUNTS = {1: "one object", 2: "two objects"}
NUMBERS = {1: ("",), 2: (" 1", " 2")}
"""The endings of the heads' names, by the number of objects in a scene."""


def heads_of(objects):
    """The heads of a classifier of scenes with so many objects, in their order."""
    return tuple(name + number for number in NUMBERS[objects] for name in OF_OBJECT) + OF_BACKGROUND


def labels_of(path):
    """Labels of scenes by id: the caption, the number of objects, and one word for each head of a net of so many objects. Of two
    objects, the one at the left or at the top is the first."""
    found = {}
    for line in read_lines(path, ["id", "caption", "objects", "background"]):
        try:
            objects = sorted(line["objects"], key=lambda object: object["position"] in ("right", "bottom"))
            words = {name + number: object[name] for number, object in zip(NUMBERS[len(objects)], objects) for name in OF_OBJECT}
            words |= {"style": line["background"]["style"], "tone": line["background"]["colour"]}
        except (KeyError, TypeError):
            fail(path, f"scene {line['id']!r}: expected colour, shape, position and size of one or two objects, and a background")
        found[line["id"]] = (line["caption"], len(objects), words)
    return found or fail(path, "expected labels in it, got none")
