"""Tests of circles.py: what it must find and what it must not. Python's standard library alone: python3 tests/circles/test_circles.py"""

import pathlib
import tempfile
import unittest

import circles


def found(**files):
    """The circles of a crate with these files (`__` for `/`), as sorted lists of names."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in files.items():
            path = root / (name.replace("__", "/") + ".rs")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        groups, _ = circles.circles(root / "lib.rs")
        names = lambda group: sorted(m.file.relative_to(root).with_suffix("").as_posix() for m in group)
        return sorted(names(group) for group in groups)


MAP = "mod a;\nmod b;\nmod c;\n"


class Circles(unittest.TestCase):
    def test_two_files_and_three(self):
        self.assertEqual(found(lib=MAP, a="use crate::b::B;\nstruct A;", b="use super::a::A;\nstruct B;", c=""), [["a", "b"]])
        three = dict(a="use crate::b::B;\nstruct A;", b="fn f() { crate::c::g() }\nstruct B;", c="use crate::{a::A, b};\nfn g() {}")
        self.assertEqual(found(lib=MAP, **three), [["a", "b", "c"]])

    def test_one_way_is_none(self):
        self.assertEqual(found(lib=MAP, a="use crate::b::B;", b="use crate::c::C;\nstruct B;", c="struct C;"), [])

    def test_reexports_are_followed_to_the_file(self):
        lib = MAP + "pub use a::A;\npub(crate) use b::B as Renamed;"
        self.assertEqual(found(lib=lib, a="use crate::Renamed;\nstruct A;", b="struct B;", c="use crate::A;"), [])
        self.assertEqual(found(lib=lib, a="use crate::Renamed;\nstruct A;", b="use crate::A;\nstruct B;", c=""), [["a", "b"]])

    def test_a_map_with_code_takes_part(self):
        self.assertEqual(found(lib="mod a;\nfn f() { a::g() }\nconst N: usize = 1;", a="use super::N;\nfn g() {}"), [["a", "lib"]])
        self.assertEqual(found(lib="mod d;", d__mod="mod e;\nuse self::e::E;\nstruct D;", d__e="struct E(super::D);"), [["d/e", "d/mod"]])

    def test_module_files(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "a").mkdir()
            for name in ("a.rs", "a/b.rs", "c.rs"):
                (root / name).write_text("")
            self.assertEqual([file.name for file in circles.beside_their_folder(root)], ["a.rs"])

    def test_globs_and_groups(self):
        self.assertEqual(found(lib=MAP, a="use crate::{\n    b::{self, B},\n    c,\n};\nstruct A;", b="use crate::a::*;\nstruct B;", c=""), [["a", "b"]])

    def test_tests_comments_and_texts_are_left_out(self):
        b = 'struct B;\n// crate::a::A\nconst T: &str = "crate::a::A {";\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n    fn f() { {} }\n}\n'
        b += "#[cfg(all(test, unix))]\nmod more {\n    use crate::a::A;\n}\n"
        self.assertEqual(found(lib=MAP, a="use crate::b::B;\nstruct A;", b=b, c=""), [])
        self.assertEqual(found(lib=MAP, a="use crate::b::B;\nstruct A;", b=b + "type T = crate::a::A;", c=""), [["a", "b"]])


if __name__ == "__main__":
    unittest.main()
