#!/usr/bin/env bash
# Builds `gpu_check` (CPU, wgpu and CUDA in one binary) and packs it for a machine that has a GPU and nothing else:
#
#   benches/gpu/build.sh [CUBECL_LLVM]      # → target/gpu-check
#
# Kernels are compiled by NVRTC on that machine, so LLVM is linked but never called. CUBECL_LLVM, an argument or a variable, is a
# crate that stands in for `cubecl-llvm` where the bundle that its build script downloads is out of reach. CUDA_BUILD_ENV is a
# script to be sourced first. No CUDA toolkit is needed here.
#
# target/gpu-check/bin and run.sh go beside a copy of this repository; the whole folder goes where there is none.
set -euo pipefail

readonly mib=$((1 << 20))
readonly most_beside=$((26 * mib)) most=$((64 * mib))

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${CARGO_TARGET_DIR:-target}
pack=$target/gpu-check
stand_in=${1:-${CUBECL_LLVM:-}}
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)

if [[ -n ${CUDA_BUILD_ENV:-} ]]; then
    # shellcheck source=/dev/null
    . "$CUDA_BUILD_ENV"
fi
export CUDARC_CUDA_VERSION=${CUDARC_CUDA_VERSION:-13000}
options=()
if [[ -n $stand_in ]]; then
    options+=(--config "patch.crates-io.cubecl-llvm.path=\"$(cd "$stand_in" && pwd)\"")
    # Such a build forgets the packages it does not need.
    lock=$(mktemp)
    cp Cargo.lock "$lock"
    trap 'cp "$lock" Cargo.lock && rm -f "$lock"' EXIT
fi
cargo build --release -p qwen3-omni-benches --bin gpu_check --features wgpu,cuda "${options[@]}"

size() { find "$1" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }'; }

fits() {
    local found
    found=$(size "$1")
    printf '%-24s %5.1f MiB of %d\n' "$1" "$(awk "BEGIN { print $found / $mib }")" $(($2 / mib))
    if ((found > $2)); then
        echo "error: $1 is larger than what travels" >&2
        return 1
    fi
}

rm -rf "$pack"
mkdir -p "$pack/bin" "$pack/fixtures"
strip -s -o "$pack/bin/gpu_check" "$target/release/gpu_check"
xz -9 "$pack/bin/gpu_check"
echo "$commit" >"$pack/bin/commit"
# The Vulkan loader, for machines that have a driver but no loader.
loader=$(ldconfig -p 2>/dev/null | awk '/libvulkan\.so\.1 / { print $NF; exit }' || true)
if [[ -n $loader ]]; then
    cp -L "$loader" "$pack/bin/libvulkan.so.1"
fi
cp benches/gpu/run.sh "$pack/"
cp -r crates/testkit/fixtures/{tiny,golden,bf16} examples/assets/{nano,nano-samples} "$pack/fixtures/"
fits "$pack/bin" "$most_beside"
fits "$pack" "$most"
