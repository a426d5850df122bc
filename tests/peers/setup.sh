#!/bin/sh
# Makes the Python environment of the references (tests/python/setup.sh) with the compared programs in it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/../python/setup.sh"
venv="$here/../../target/python"
"$venv/bin/python" -c "import tomesd, openvino" 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
# It has no wheel: this compiles it for this processor, which takes minutes. Without it, its row says so.
"$venv/bin/python" -c "import stable_diffusion_cpp" 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements-sdcpp.txt" ||
    echo "stable-diffusion.cpp does not compile here"
