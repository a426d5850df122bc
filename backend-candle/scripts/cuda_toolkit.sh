#!/usr/bin/env bash
# Builds the program with NVIDIA support on a machine that has neither a CUDA toolkit nor a GPU.
#   backend-candle/scripts/cuda_toolkit.sh cargo build --release --features cuda
# The script installs nvcc and the libraries to link against from PyPI into target/cuda (once, about 1 GB). Then it runs the given
# command with them. The linked program needs the driver (libcuda.so.1), libcublas.so.13, libcurand.so.10
# and libnvrtc.so.13 where it runs.
# CUDA_COMPUTE_CAP selects the GPU (default 90, Hopper), PYTHON the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "usage: $0 COMMAND…, for example: $0 cargo build --release --features cuda" >&2; exit 2; }
toolkit=$PWD/target/cuda
if [ ! -x "$toolkit/bin/pip" ]; then
  "${PYTHON:-python3}" -m venv "$toolkit"
fi
# All parts are of one CUDA release, because nvcc refuses headers of another.
"$toolkit/bin/pip" install --quiet --disable-pip-version-check --no-deps \
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35
wheels=$(echo "$toolkit"/lib/python3*/site-packages/nvidia/cu13)
# The wheels only have libraries with a version in their names. A linker looks for the bare names.
mkdir -p "$toolkit/link"
for library in "$wheels"/lib/lib*.so.*; do
  name=$(basename "$library")
  ln -sf "$library" "$toolkit/link/${name%%.so.*}.so"
done
# The driver comes with a GPU. Without a GPU, link against a library with its name that answers every call with an error
# (999, unknown).
if [ ! -e "$toolkit/link/libcuda.so" ]; then
  cargo fetch --locked
  registry=$(echo "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-*/src/driver/sys)
  # shellcheck disable=SC2086 # several folders are several words
  grep -rhoE 'fn cu[A-Z][A-Za-z0-9_]+' $registry | awk '{ print $2 }' | sort -u |
    awk '{ print "int " $1 "(void) { return 999; }" }' > "$toolkit/driver_stub.c"
  [ -s "$toolkit/driver_stub.c" ] || { echo "$0: no driver functions found in cudarc's sources ($registry)" >&2; exit 1; }
  cc -shared -w -Wl,-soname,libcuda.so.1 "$toolkit/driver_stub.c" -o "$toolkit/link/libcuda.so"
fi
export CUDA_HOME=$wheels CUDA_PATH=$wheels CUDA_ROOT=$wheels CUDA_TOOLKIT_ROOT_DIR=$wheels PATH=$wheels/bin:$PATH
export LIBRARY_PATH=$toolkit/link:$wheels/lib${LIBRARY_PATH:+:$LIBRARY_PATH} CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
exec "$@"
