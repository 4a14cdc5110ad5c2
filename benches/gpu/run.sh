#!/usr/bin/env bash
# Checks correctness and speed on this machine's devices, in less than ten minutes. Needs bash, coreutils and xz: no Rust, no
# network.
#
#   ./run.sh [--smoke] [DEVICE…]      # cuda and wgpu, if none is named; --smoke: small sizes, to try the script itself
#
# OUT (gpu-out) gets report.md, report.json, lines.jsonl (every finding) and log.txt. BUDGET_S (570; 3600 for --smoke) bounds the
# whole run. A step that fails does not stop the others. Exits with 0 if all that could run passed.
set -euo pipefail

smoke=false
devices=()
for argument in "$@"; do
    case $argument in
        --smoke) smoke=true ;;
        -*) echo "error: $argument is no option: expected [--smoke] [cpu|wgpu|cuda]…" >&2 && exit 2 ;;
        *) devices+=("$argument") ;;
    esac
done
((${#devices[@]})) || devices=(cuda wgpu)
if $smoke; then
    # On a driver in software every kernel takes its time to be compiled.
    patience=4 budget=${BUDGET_S:-3600}
else
    patience=1 budget=${BUDGET_S:-570}
fi
readonly patience budget

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${OUT:=gpu-out}"
out=$(cd "$OUT" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
readonly lines=$out/lines.jsonl log=$out/log.txt program=$work/gpu_check
: >"$lines"
: >"$log"

# Beside this script everything is packed; in the repository each thing has its place.
if [[ -d $here/bin ]]; then
    bin=$here/bin
else
    bin=${CARGO_TARGET_DIR:-$here/../../target}/gpu-check/bin
fi
if [[ -d $here/fixtures ]]; then
    checkpoints=$here/fixtures models=$here/fixtures
else
    checkpoints=$here/../../crates/testkit/fixtures models=$here/../../examples/assets
fi
xz -dc "$bin/gpu_check.xz" >"$program"
chmod +x "$program"

# Kernels that one step has compiled and tuned are there for the next.
cat >"$work/burn.toml" <<END
[cubecl.compilation]
cache = true

[cubecl.environment]
path = { directory = "$work/cache" }
END
cd "$work"

# Headers and NVRTC of a toolkit that does not lie where it is expected.
for toolkit in "${CUDA_PATH:-}" /usr/local/cuda /opt/cuda /usr/local/cuda-*; do
    if [[ -f $toolkit/include/cuda_fp16.h ]]; then
        export CUDA_PATH=$toolkit LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$toolkit/lib64
        break
    fi
done
if ! ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1 ' && [[ -f $bin/libvulkan.so.1 ]]; then
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$bin
fi
if [[ -z ${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-} ]] && command -v nvidia-smi >/dev/null; then
    places=(/usr/share/vulkan /etc/vulkan /usr/local /opt)
    driver=$(find "${places[@]}" -maxdepth 6 -name 'nvidia_icd*.json' 2>/dev/null | head -n 1 || true)
    if [[ -n $driver ]]; then
        export VK_DRIVER_FILES=$driver
    fi
fi
memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1 || true)

failed=0

# step NAME SECONDS ARGUMENT…: runs the program, with its findings in $lines, and says in one line how it went.
step() {
    local name=$1 limit=$(($2 * patience)) code=0 started=$SECONDS left=$((budget - SECONDS)) result
    shift 2
    if ((left < 5)); then
        code=2
        echo '{"kind":"not_run","reason":"no time left"}' >>"$lines"
    else
        echo "=== $name: $*" >>"$log"
        timeout -k 5 "$((limit < left ? limit : left))" "$program" "$@" >>"$lines" 2>>"$log" || code=$?
    fi
    # The line before may have been cut off.
    printf '\n{"kind": "step", "step": "%s", "code": %d, "seconds": %d}\n' "$name" "$code" $((SECONDS - started)) >>"$lines"
    case $code in
        0) result='done' ;;
        1) result=FAILED ;;
        2) result="not run: $(sed -n 's/.*"not_run","reason":"\(.*\)"}$/\1/p' "$lines" | tail -n 1)" ;;
        124 | 137) result="STOPPED after $((SECONDS - started)) s" ;;
        *) result="BROKE OFF with code $code" ;;
    esac
    printf '%4d s  %-20s %s\n' "$SECONDS" "$name" "$result"
    ((code == 0 || code == 2)) || failed=1
    return "$code"
}

# The number type of a device that is half as wide as f32.
half() {
    case $1 in
        wgpu) echo f16 ;;
        *) echo bf16 ;;
    esac
}

opens() {
    if [[ $1 == cuda* && ! -f ${CUDA_PATH:-}/include/cuda_fp16.h ]] && command -v nvidia-smi >/dev/null; then
        echo "warning: no CUDA headers found; set CUDA_PATH to a toolkit" >&2
    fi
    step "device $1" 40 device --device "$1"
}

correctness() {
    local some=() most=() types=(f32)
    if $smoke; then
        some=(--only 'positions_text,rotary_,code_predictor,code2wav_5,thinker_text') most=(--most 1)
    fi
    step "parity $1" 120 parity --device "$1" --model "$checkpoints/tiny" --golden "$checkpoints/golden" "${some[@]}" || true
    if [[ $1 == cuda* ]]; then
        types+=(bf16)
        step "parity $1 bf16" 150 parity --device "$1" --dtype bf16 --reference-errors "$checkpoints/bf16/tiny.json" \
            --model "$checkpoints/tiny" --golden "$checkpoints/golden" "${some[@]}" || true
    fi
    for type in "${types[@]}"; do
        step "nano $1 $type" 45 nano --device "$1" --dtype "$type" \
            --model "$models/nano" --samples "$models/nano-samples" "${most[@]}" || true
    done
}

# speed DEVICE TYPE
speed() {
    local parts=(launch memory aut vision thinker talker mtp code2wav answers) of_parts of_answers layers=4
    of_parts=(--runs 20 --budget-s 2)
    of_answers=(--runs 20 --budget-s 30 --sessions '1,6')
    # All layers in bf16 are 61 GB, all of the model 71.
    if [[ $1 == cuda* ]] && ((${memory:-0} > 78000)); then
        layers=48
    elif [[ $2 != int4 ]]; then
        of_answers+=(--layers 8)
    fi
    of_parts+=(--thinker-layers "$layers")
    if $smoke; then
        parts=(launch memory thinker talker mtp)
        of_parts=(--runs 3 --budget-s 1 --thinker-layers 2 --prompt 16 --memory-mib 16 --config "$checkpoints/tiny/config.json")
        of_answers=(--small --runs 2 --tokens 2 --budget-s 5 --sessions '1,2')
    fi
    step "parts $1 $2" 120 parts --device "$1" --dtype "$2" "${of_parts[@]}" --only "${parts[@]}" || true
    step "answers $1 $2" 120 latency --device "$1" --dtype "$2" --nano "$models/nano" \
        --sound "$models/nano-samples/spoken_sum_question.wav" "${of_answers[@]}" || true
}

"$program" machine --commit "$(cat "$bin/commit")" >>"$lines" 2>>"$log" || {
    echo "error: the program does not start here; $log says why" >&2
    tail -n 3 "$log" >&2
    exit 1
}
usable=()
for device in "${devices[@]}"; do
    if opens "$device"; then
        usable+=("$device")
    fi
done
# What is right on every device comes before what is fast on the first.
for device in "${usable[@]}"; do
    correctness "$device"
done
for device in "${usable[@]}"; do
    speed "$device" "$(half "$device")"
    speed "$device" int4
done
"$program" report "$lines" --json "$out/report.json" 2>>"$log" | tee "$out/report.md"
echo "written: $out/report.md, report.json, lines.jsonl, log.txt; $SECONDS s"
((${#usable[@]})) || failed=1
exit "$failed"
