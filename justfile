# Commands of the project. Plain `cargo` does the daily work; here are the gathered and the slow ones.

# What CI runs: tests, then lints.
ci:
    bash .ci/run

# The README's test command.
test:
    bash tests/run.sh

# Formatting, clippy, rustdoc.
lint:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Licences, bans and sources of all dependencies (needs cargo-deny; `just deny advisories` also needs the network).
deny *CHECKS="licenses bans sources":
    cargo deny check {{CHECKS}}

# Every crate as it would be published: its files, its size, and a build from its package (libtorch for two of them).
package *ARGS:
    bash tests/libtorch.sh
    python3 tests/package/package.py {{ARGS}}

# Checkpoints written by diffusers, its results beside ours (makes a Python environment in target/python: 2 GB).
parity *ARGS:
    bash tests/python/setup.sh
    cargo build --release
    target/python/bin/python tests/python/parity.py --atedm target/release/atedm {{ARGS}}

# The speed of SD-XL's real U-Net on the CPU (needs 14 GB of memory, about 10 minutes).
bench-unet:
    cargo bench -p atedm-tests --bench sdxl_unet

# SD-XL's U-Net in bf16 beside diffusers, tomesd, torch.compile and OpenVINO, in turns (20 GB of memory, about 25 minutes on an
# idle machine).
peers *ARGS:
    bash tests/libtorch.sh
    cargo build --release -p atedm --features tch
    sh tests/peers/setup.sh
    target/python/bin/python tests/peers/peers.py --out docs/src/benchmarks.md {{ARGS}}

# The checks that need a GPU: `just gpu pack` here, then `python3 tests/gpu/gpu.py run` beside the GPU (no network, under nine minutes).
gpu *ARGS="pack":
    python3 tests/gpu/gpu.py {{ARGS}}

# The CUDA sources compiled for GPUs by NVRTC (`pip install nvidia-cuda-nvrtc==13.0.88`; no GPU, under a minute).
nvrtc *ARGS:
    python3 tests/cuda/nvrtc.py {{ARGS}}

# The page of `atedm report` in headless Chromium, with screenshots in target/browser (Debian: apt-get install chromium).
report-page *ARGS:
    cargo build -p atedm
    python3 tests/browser/report.py {{ARGS}}

# The tests of the Python package in evaluation/ (makes a Python environment in target/python: 2 GB).
evaluation *ARGS:
    bash evaluation/test.sh {{ARGS}}

# Linear layers and convolutions of the CPU kernels by every kind of instructions, beside `gemm`.
bench-products:
    cargo bench -p atedm-cpu-kernels --bench products

# Attention, votes and argmax of the CPU kernels at every level.
bench-attention:
    cargo bench -p atedm-cpu-kernels --bench attention

# The CPU kernels' signatures on ARM (rustup target add aarch64-unknown-linux-gnu).
arm:
    cargo check --target aarch64-unknown-linux-gnu -p atedm-cpu-kernels

# Criterion benches of votes, selection, recovery and a U-Net block.
bench:
    cargo bench -p atedm-tests --bench pruning
    cargo bench -p atedm-tests --bench unet

# The commands of the README and of the guide, as they stand there.
docs-commands *ARGS:
    cargo build -p atedm --features train
    python3 tests/docs/commands.py {{ARGS}}

# Ten minutes of damaged files: no panic, no abort, less than 1 GB, one line of error.
fuzz SECONDS="600":
    ATEDM_FUZZ_SECONDS={{SECONDS}} cargo test -p atedm-tests --test fuzz -- --nocapture

# The guide (needs mdbook).
book:
    mdbook build docs
