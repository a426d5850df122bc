#!/bin/sh
# Makes the virtual environment of the Python references in target/python, once per requirements.txt.
# PYTHON names the interpreter (3.11 or newer).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv="$root/target/python"
wanted="$root/tests/python/requirements.txt"
stamp="$venv/requirements.installed"
if [ -f "$stamp" ] && cmp -s "$wanted" "$stamp"; then
    exit 0
fi
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$wanted"
"$venv/bin/python" -c "import torch, diffusers, transformers; from diffusers import StableDiffusionXLPipeline"
cp "$wanted" "$stamp"
