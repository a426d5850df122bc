"""Helpers that the tests share."""

import contextlib
import io
import sys

import numpy as np


def close(value, expected, tolerance=1e-9):
    assert np.allclose(value, expected, rtol=tolerance, atol=tolerance), f"expected {expected}, got {value}"


def save(path, picture):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def called(main, *flags):
    """Standard output of a program. If the program fails, its one line."""
    before, sys.argv, output = sys.argv, ["program", *map(str, flags)], io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
            main()
        return output.getvalue()
    except SystemExit as exit:
        assert exit.code and isinstance(exit.code, str) and "\n" not in exit.code, exit.code
        return exit.code
    finally:
        sys.argv = before
