"""Compiles the CUDA sources of backend-candle with NVRTC, for all head sizes, both dtypes and two kinds of GPU. It needs no GPU.

    pip install nvidia-cuda-nvrtc==13.0.88
    python3 tests/cuda/nvrtc.py [LIBNVRTC]

prints the registers and the shared memory of every kernel, and exits with 1 if one does not compile, spills registers or
needs more shared memory than every GPU gives a block. LIBNVRTC is a path to the library, by default that of the package.
"""

import ctypes
import os
import re
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "backend-candle/src/cuda"
# As in source.rs.
FILES = ["device.cuh", "tile.cuh", "attention.cu", "votes.cu", "strongest.cu"]
KERNELS = ["attention", "strongest", "votes"]
SHARED_MEMORY = 48 * 1024


def options(architecture, dtype, dim):
    rows = 128 if dim <= 64 else 64
    defined = [f"DIM={dim}", "WARPS=4", f"ATTENTION_ROWS={rows}", "VOTES_ROWS=128", "STRONGEST_ROWS=32"]
    defined += ["BF16"] if dtype == "bf16" else []
    return [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v", *(f"-D{name}" for name in defined)]


def library(arguments):
    if arguments:
        return Path(arguments[0])
    found = [path for folder in sys.path for path in Path(folder or ".").glob("nvidia/*/lib/libnvrtc.so.*")]
    if not found:
        sys.exit("expected the package nvidia-cuda-nvrtc or a path to libnvrtc, found none")
    return found[0]


class Nvrtc:
    def __init__(self, path):
        # NVRTC opens this one by its name
        for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins), os.RTLD_GLOBAL)
        self.calls = ctypes.CDLL(str(path))

    def compile(self, source, options):
        """Whether the source compiles, and what the compiler says."""
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        assert self.calls.nvrtcCreateProgram(ctypes.byref(program), source, b"atedm.cu", 0, None, None) == 0
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        compiled = self.calls.nvrtcCompileProgram(program, len(options), words) == 0
        self.calls.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.calls.nvrtcGetProgramLog(program, log)
        self.calls.nvrtcDestroyProgram(ctypes.byref(program))
        return compiled, log.value.decode()


def faults(compiled, log):
    """What is wrong, and a line for every kernel."""
    names = re.findall(r"Function properties for (\w+)", log)
    spills = [int(bytes_) for bytes_ in re.findall(r"(\d+) bytes spill", log)]
    used = [tuple(map(int, pair)) for pair in re.findall(r"Used (\d+) registers.*?(\d+) bytes smem", log)]
    if not compiled or sorted(names) != KERNELS or len(used) != len(names):
        return [log], []
    wrong = ["registers are spilled"] if any(spills) else []
    wrong += ["too much shared memory"] if any(memory > SHARED_MEMORY for _, memory in used) else []
    return wrong, [f"{name} {registers} registers {memory} bytes" for name, (registers, memory) in zip(names, used)]


def main():
    nvrtc = Nvrtc(library(sys.argv[1:]))
    source = b"".join((SOURCES / name).read_bytes() for name in FILES)
    failed = False
    for architecture in ["sm_80", "sm_90"]:
        for dtype in ["bf16", "f16"]:
            for dim in range(8, 129, 8):
                wrong, kernels = faults(*nvrtc.compile(source, options(architecture, dtype, dim)))
                print(architecture, dtype, dim, "; ".join(wrong + kernels), flush=True)
                failed |= bool(wrong)
    sys.exit(failed)


if __name__ == "__main__":
    main()
