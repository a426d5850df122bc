#!/usr/bin/env bash
# Puts libtorch (PyTorch 2.11.0, from PyPI) into target/libtorch, once. .cargo/config.toml points LIBTORCH there.
#
#     bash tests/libtorch.sh          # runs on the CPU: 0.6 GB to fetch, 1.3 GB on the disk
#     bash tests/libtorch.sh --cuda   # with the CUDA 13 libraries that a GPU needs: some GB more
#
# It does nothing if LIBTORCH names another installation. PYTHON names the interpreter whose pip it uses (3.10 to 3.14).
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(torch==2.11.0 nvidia-cuda-cupti==13.0.85 nvidia-cuda-runtime==13.0.96)
# The libraries that the loader needs for libtorch_cuda.so, with the versions of torch's own requirements.
gpu=(
    nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88 nvidia-cudnn-cu13==9.19.0.56 nvidia-cufft==12.0.0.61
    nvidia-cufile==1.15.1.6 nvidia-curand==10.4.0.35 nvidia-cusolver==12.0.4.66 nvidia-cusparse==12.6.3.3
    nvidia-cusparselt-cu13==0.8.0 nvidia-nccl-cu13==2.28.9 nvidia-nvjitlink==13.0.88 nvidia-nvshmem-cu13==3.4.5
)
fail() {
    echo "libtorch: $*" >&2
    exit 1
}

case "${1:-}" in
    "") ;;
    --cuda) packages+=("${gpu[@]}") ;;
    *) fail "expected no argument or --cuda, got $1" ;;
esac
folder=target/libtorch
if [ -n "${LIBTORCH:-}" ] && [ "$(realpath -m "$LIBTORCH")" != "$(realpath -m "$folder/torch")" ]; then
    [ -e "$LIBTORCH/lib" ] || fail "LIBTORCH is $LIBTORCH, which has no folder lib"
    exit 0
fi
missing=()
for package in "${packages[@]}"; do
    grep -qxF "$package" "$folder/installed" 2>/dev/null || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

python=${PYTHON:-python3}
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip (PYTHON names another interpreter)"
# A run that was stopped may have left half an installation, which would not show. So an installation without a list is
# made again.
[ -e "$folder/installed" ] || rm -rf "$folder"
echo "libtorch: fetching ${missing[*]} into $folder" >&2
rm -rf "$folder.part"
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --no-deps \
    --only-binary=:all: --target "$folder.part" "${missing[@]}" ||
    fail "pip could not fetch ${missing[*]} (Linux with Python 3.10 to 3.14, and a network, are needed)"
mkdir -p "$folder"
cp -rlf "$folder.part/." "$folder/"
rm -rf "$folder.part"
[ -e "$folder/torch/lib/libtorch_cpu.so" ] || fail "$folder/torch/lib/libtorch_cpu.so is missing after the installation"
printf '%s\n' "${missing[@]}" >>"$folder/installed"
