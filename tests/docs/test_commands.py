"""Tests that commands.py finds errors. They need only Python's standard library: python3 tests/docs/test_commands.py"""

import pathlib
import tempfile
import unittest

import commands


def page(text):
    """A page with this text."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "page.md"
        path.write_text(text, encoding="utf-8")
        return commands.Page(path)


class Commands(unittest.TestCase):
    def test_lines_are_commands(self):
        text = '```sh\n# a comment\natedm a \\\n    --b "c # d && e"   # why\n\nX=1 f && g\n```\n```toml\n# h.toml\ni = 1\n```\nA `cargo build --j` in prose.\n'
        found = page(text)
        expected = [(3, 'atedm a     --b "c # d && e"'), (6, "X=1 f"), (6, "g"), (12, "cargo build --j")]
        squeezed = [(number, " ".join(command.split())) for number, command, _ in found.commands]
        self.assertEqual(squeezed, [(number, " ".join(command.split())) for number, command in expected])
        self.assertEqual(found.files, {"h.toml": "# h.toml\ni = 1\n"})

    def test_comments_say_what_is_not_run(self):
        text = "<!-- before: atedm z -->\n<!-- not run (atedm a): slow -->\n```sh\natedm a\natedm b\n```\n"
        self.assertEqual(page(text).commands, [(1, "atedm z", None), (4, "atedm a", "slow"), (5, "atedm b", None)])
        for broken in ["<!-- not run (atedm c): slow -->\n```sh\natedm a\n```\n", "<!-- not run: slow -->\n", "```sh\natedm a\n"]:
            with self.assertRaises(SystemExit):
                page(broken)

    def test_what_is_not_known_fails(self):
        for command, named in [
            ("make all", "of a kind that is known"),
            ("cargo build --release --features no-such", "no-such"),
            ("cargo build -p no-such", "no-such"),
            ("cargo build --jobs 2", "--jobs"),
            ("cargo run -p atedm-tests --example no-such -- MODEL", "no-such"),
            ("python docs/evaluation/no-such.py", "no-such"),
            ("backend-candle/scripts/cuda_toolkit.sh cargo build --features no-such", "no-such"),
        ]:
            what, why = commands.tried(command, None, pathlib.Path("."))
            self.assertEqual(what, "failed", command)
            self.assertIn(named, why)

    def test_what_cargo_knows_is_resolved(self):
        for command in ["cargo build --release --features tch", "cargo install --path cli"]:
            self.assertEqual(commands.tried(command, None, pathlib.Path(".")), ("resolved", ""))

    def test_a_command_that_fails_is_told(self):
        with tempfile.TemporaryDirectory() as folder:
            what, why = commands.tried("printf '%d' x", None, pathlib.Path(folder))
        self.assertEqual(what, "failed")
        self.assertIn("exit code 1", why)


if __name__ == "__main__":
    unittest.main()
