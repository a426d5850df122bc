#!/usr/bin/env bash
# Runs the tests of the Python package `atedm_evaluation` in the environment of the Python references (target/python: 2 GB).
# Arguments go to pytest. PYTHON names the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."
sh tests/python/setup.sh
target/python/bin/pip install --quiet --disable-pip-version-check --no-deps \
    -r evaluation/requirements.txt -r evaluation/requirements-test.txt
PYTHONPATH=$PWD/evaluation exec target/python/bin/python -m pytest -q evaluation "$@"
