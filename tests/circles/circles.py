"""Circles between the files of a crate: groups of files that all need each other, directly or by way of others.

A file needs another if it names an item that is defined there, through `crate::`, `super::`, `self::` or a child module.
Names are followed through re-exports to the file that defines them. A re-export in itself is no need, nor is `mod x;`: a
`mod.rs` or `lib.rs` is a map. Tests (`#[cfg(test)]`, files called tests) are left out, and so are calls of methods, which no
path tells. Circles that are meant to be are listed in `allowed.json` with their reason; one that is gone fails as well.

    python3 tests/circles/circles.py [--all] [CRATE …]

prints every circle that is not allowed, with the names that make it, and exits with 1 if there is one. It also names modules
with a folder whose file is `name.rs` beside it: here that file is `name/mod.rs`.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ITEM = re.compile(r"\b(?:fn|struct|enum|trait|const|static|type|union|macro_rules!)\s+(?:mut\s+)?([A-Za-z_]\w*)")
MODULE = re.compile(r"\bmod\s+([a-z_]\w*)\s*;")
USE = re.compile(r"(\bpub(?:\s*\([^)]*\))?\s+)?\buse\s+([^;]+);")
INLINE = re.compile(r"\b((?:crate|self|super)(?:\s*::\s*[A-Za-z_]\w*)+)")
CHILD_PATH = re.compile(r"(?<![\w:])([a-z_]\w*(?:::[A-Za-z_]\w*)+)")


TEST = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\)\]")


def blank(text):
    """`text` without comments and the content of literals."""
    out, i = [], 0
    token = re.compile(
        r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\])\'', re.DOTALL
    )
    for match in token.finditer(text):
        out.append(text[i : match.start()])
        out.append("\n" * match.group().count("\n") or " ")
        i = match.end()
    return "".join(out) + text[i:]


def without_tests(text):
    """`text` without the items below `#[cfg(test)]`."""
    while match := TEST.search(text):
        end = match.end()
        stop = re.compile(r"[;{]").search(text, end)
        if stop is None:
            return text[: match.start()]
        end = stop.end()
        if stop.group() == "{":
            depth = 1
            while depth and end < len(text):
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
        text = text[: match.start()] + text[end:]
    return text


def leaves(tree, prefix=()):
    """The paths of a `use` tree, each with the name that it gets."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, alias = (part.strip() for part in tree.partition(" as "))
        names = prefix + tuple(part.strip() for part in path.split("::") if part.strip())
        if names and names[-1] == "self":
            names = names[:-1]
        return [(names, alias or (names[-1] if names else ""))]
    head = tuple(part.strip() for part in tree[:brace].split("::") if part.strip())
    inner, depth, start, found = tree[brace + 1 : tree.rfind("}")], 0, 0, []
    for i, c in enumerate(inner + ","):
        depth += {"{": 1, "}": -1}.get(c, 0)
        if c == "," and depth == 0:
            if inner[start:i].strip():
                found += leaves(inner[start:i], prefix + head)
            start = i + 1
    return found


class Module:
    """A file of a crate."""

    def __init__(self, file, path, parent):
        self.file, self.path, self.parent, self.children = file, path, parent, {}
        text = without_tests(blank(file.read_text(encoding="utf-8")))
        self.uses = [
            (leaf, name, bool(public)) for public, tree in USE.findall(text) for leaf, name in leaves(tree)
        ]
        body = USE.sub("", text)
        self.items = set(ITEM.findall(body))
        self.names = {name: leaf for leaf, name, _ in self.uses}
        self.inline = {tuple(re.split(r"\s*::\s*", path)) for path in INLINE.findall(body)}
        self.inline |= {tuple(path.split("::")) for path in CHILD_PATH.findall(body)}
        folder = file.parent if file.name in ("mod.rs", "lib.rs", "main.rs") else file.with_suffix("")
        for name in MODULE.findall(text):
            for child in (folder / f"{name}.rs", folder / name / "mod.rs"):
                if child.exists():
                    self.children[name] = Module(child, path + (name,), self)

    def root(self):
        return self if self.parent is None else self.parent.root()

    def all(self):
        yield self
        for child in self.children.values():
            yield from child.all()

    def resolve(self, path, seen=frozenset()):
        """The module that defines what `path` means here; `None` if it is not of this crate."""
        if (self, path) in seen:
            return None
        seen = seen | {(self, path)}
        if not path:
            return self
        head, rest = path[0], path[1:]
        if head == "crate":
            return self.root().resolve(rest, seen)
        if head == "self":
            return self.resolve(rest, seen)
        if head == "super":
            return self.parent.resolve(rest, seen) if self.parent else None
        if head in self.children:
            return self.children[head].resolve(rest, seen)
        if head in self.items or head == "*":
            return self
        if head in self.names:
            return self.resolve(self.names[head] + rest, seen) if self.names[head] != path else None
        for leaf, name, _ in self.uses:
            if name == "*" and (found := self.resolve(leaf[:-1], seen)) is not None and found is not self:
                if head in found.items or head in found.names or head in found.children:
                    return found.resolve(path, seen)
        return None

    def needs(self):
        """The files that this one needs, each with a name that it needs of it."""
        found = {}
        for path in [leaf for leaf, _, public in self.uses if not public] + sorted(self.inline):
            if path and (path[0] in ("crate", "self", "super") or path[0] in self.children or path[0] in self.names):
                target = self.resolve(path)
                if target is not None and target is not self:
                    found.setdefault(target, "::".join(path))
        return found


def circles(root):
    """The groups of files below the crate root `root` that need each other: `(modules, needs by module)`."""
    modules = list(Module(root, (), None).all())
    needs = {module: module.needs() for module in modules}
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in needs[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] is module:
                    break
            if len(group) > 1:
                found.append(group)

    for module in modules:
        if module not in index:
            visit(module)
    return found, needs


def beside_their_folder(source):
    """The files `name.rs` that stand beside the folder of their module."""
    return [file for file in sorted(source.rglob("*.rs")) if file.with_suffix("").is_dir()]


def crates():
    """The crate roots of the workspace by folder."""
    roots = sorted(ROOT.glob("*/src/lib.rs")) + sorted(ROOT.glob("examples/*/src/lib.rs"))
    return {root.parents[1].relative_to(ROOT).as_posix(): root for root in roots}


def main(arguments):
    show_all = "--all" in arguments
    wanted = [argument for argument in arguments if not argument.startswith("--")]
    allowed = json.loads((Path(__file__).parent / "allowed.json").read_text(encoding="utf-8"))
    bad = 0
    for crate, root in crates().items():
        if wanted and crate not in wanted:
            continue
        source = root.parent
        listed = {frozenset(entry["files"]) for entry in allowed.get(crate, [])}
        met = set()
        for file in beside_their_folder(source):
            bad += 1
            print(f"{crate}: {file.relative_to(source).as_posix()}: expected {file.stem}/mod.rs")
        groups, needs = circles(root)
        for group in groups:
            files = frozenset(module.file.relative_to(source).as_posix() for module in group)
            met.add(files)
            if files in listed and not show_all:
                continue
            bad += files not in listed
            print(f"{crate}: {len(files)} files need each other: {', '.join(sorted(files))}")
            for module in sorted(group, key=lambda module: module.file):
                for other, name in needs[module].items():
                    if other in group:
                        names = (one.file.relative_to(source).as_posix() for one in (module, other))
                        print("    {} -> {}: {}".format(*names, name))
        for files in listed - met:
            bad += 1
            print(f"{crate}: listed as a circle in allowed.json, but none any more: {', '.join(sorted(files))}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
