#!/usr/bin/env bash
# Runs the script for a GPU on the CPU, with the programs that the tests built and a tiny model. CI runs it.
set -euo pipefail
cd "$(dirname "$0")/../.."
tested=$(ls -t target/debug/deps/tch_cuda-* | grep -v '\.d$' | head -n 1)
python3 tests/gpu/gpu.py pack --program target/debug/atedm --test "$tested"
rm -rf target/gpu-dry
PYTHONPATH=target/libtorch python3 tests/gpu/gpu.py run target/gpu-dry --dry --only conformance,candle,parity,bench,candle_bench
