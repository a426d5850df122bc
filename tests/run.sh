#!/usr/bin/env bash
# The test command: fetches libtorch once (libtorch.sh), then runs every test, those on libtorch too. Arguments go to
# `cargo test`: `bash tests/run.sh votes`.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tests/libtorch.sh
exec cargo test --workspace --locked --features atedm/train,atedm/emoji,atedm-tests/tch,example-wan-like/tch "$@"
