#!/usr/bin/env bash
# The test command. It fetches libtorch once (libtorch.sh), then runs every test, also those on libtorch. It passes
# arguments to `cargo test`: `bash tests/run.sh votes`.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tests/libtorch.sh
exec cargo test --workspace --locked --features atedm/train,atedm/emoji,atedm-tests/tch,example-wan-like/tch "$@"
