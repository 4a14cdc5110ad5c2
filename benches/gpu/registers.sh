#!/usr/bin/env bash
# What our kernels take of a GPU of compute capability 9.0 (H100, H200), found on a machine without one: registers, shared memory,
# spills.
#
#   benches/gpu/build.sh && benches/gpu/registers.sh [PART…]      # all parts, if none is named
#
# `gpu_check` launches the parts of the model at full width on a stand-in for the CUDA driver (driver.c). NVRTC compiles the kernels and
# ptxas assembles them; none runs. Needs a C compiler, and of CUDA 13 headers, NVRTC and ptxas: those of CUDA_PATH or, without one,
# packages that pip installs beside the build. GPU_CHECK is another build of the program with the feature `cuda`.
#
# OUT (gpu-registers) gets registers.md (the tables), kernels.tsv (each compiled kernel of ours) and a folder for each number type and
# part: the modules as PTX, the launches, what the program found, and its log. Exits with 0 if everything could be compiled.
set -euo pipefail

parts=("$@")
((${#parts[@]})) || parts=(thinker talker mtp draw code2wav aut vision answers)
readonly types=(bf16 int4)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$(realpath -m "${CARGO_TARGET_DIR:-$here/../../target}")
mkdir -p "${OUT:=gpu-registers}"
out=$(cd "$OUT" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
readonly here target out work

if [[ -z ${CUDA_PATH:-} ]]; then
    tools=$target/cuda-tools
    [[ -x $tools/bin/pip ]] || python3 -m venv "$tools"
    # ptxas refuses what an NVVM of another version makes.
    "$tools/bin/pip" install --quiet nvidia-cuda-{nvcc,crt,runtime,cccl,nvrtc}==13.0.* nvidia-nvvm==13.0.*
    CUDA_PATH=$(echo "$tools"/lib/python3*/site-packages/nvidia/cu13)
fi
export CUDA_PATH
if [[ -n ${GPU_CHECK:-} ]]; then
    program=$(realpath "$GPU_CHECK")
else
    program=$work/gpu_check
    xz -dc "$target/gpu-check/bin/gpu_check.xz" >"$program"
    chmod +x "$program"
fi
"${CC:-cc}" -shared -fPIC -O2 -I "$CUDA_PATH/include" -o "$work/libcuda.so.1" "$here/driver.c"
export LD_LIBRARY_PATH=$work:$CUDA_PATH/lib64:$CUDA_PATH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# launch TYPE PART: one process for each, so that each names the kernels it needs.
launch() {
    local folder=$out/$1-$2
    rm -rf "$folder"
    mkdir -p "$folder"
    # The log of sources names the Rust type of each kernel. What CubeCL measures on the stand-in is kept from real devices' caches.
    cat >"$work/burn.toml" <<END
[cubecl.compilation.logger]
level = "full"
file = "$folder/sources.log"

[cubecl.environment]
path = { directory = "$work/cache" }

[cubecl.autotune]
level = "minimal"
END
    (cd "$work" && DRIVER_OUT=$folder "$program" parts --device cuda --dtype "$1" --only "$2" \
        --runs 3 --budget-s 1 --thinker-layers 1 >"$folder/lines.jsonl" 2>"$folder/log.txt")
}

# assemble MODULE: its number, registers, static shared memory, stack, bytes of spilled stores and loads.
assemble() {
    "$CUDA_PATH/bin/ptxas" -arch=sm_90a -v -o /dev/null "$1" 2>&1 | awk -v module="$(basename "$1" .ptx)" -v OFS='\t' '
        /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
        /Used [0-9]+ registers/ { registers = $5; shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART) + 0 : 0 }
        END { print module, registers, shared, stack, stores, loads; exit registers == "" }'
}

# join FOLDER: a line for each kernel and number of units, with the least and the most cubes of its launches.
join() {
    awk -F '\t' -v OFS='\t' -v from="$(basename "$1")" '
        FILENAME ~ /sources.log$/ {
            if ($0 ~ /^name: /) { type = substr($0, 7); sub(/<.*/, "", type) }
            # `crate::module::kernel::function::Type` of the function `name(`
            if ($0 ~ /__launch_bounds__/ && match($0, /[a-z0-9_]+\(v|[a-z0-9_]+\([a-z0-9_]+ [*c]|[a-z0-9_]+\(__grid/)) {
                name = substr($0, RSTART); sub(/\(.*/, "", name); types[name] = type
            }
            next
        }
        FILENAME ~ /registers.tsv$/ { registers[$1] = $2; shared[$1] = $3; spills[$1] = $4 OFS $5 OFS $6; next }
        {
            split($3, cubes, " "); split($4, units, " ")
            count = cubes[1] * cubes[2] * cubes[3]
            key = $2 OFS $4 OFS $5
            if (!(key in launches)) { least[key] = most[key] = count; module[key] = $1 }
            launches[key]++
            if (count < least[key]) least[key] = count
            if (count > most[key]) most[key] = count
        }
        END {
            for (key in launches) {
                split(key, field, OFS)
                type = field[1] in types ? types[field[1]] : "?"
                m = module[key]
                print from, type, field[1], field[2], launches[key], least[key], most[key], registers[m], shared[m] + field[3], spills[m]
            }
        }' "$1/sources.log" "$1/registers.tsv" "$1/launches.tsv" | sort
}

# tables: for each of our kernels what its variants take, least and most; the others in two sentences.
tables() {
    awk -F '\t' '
        function range(name) { return least[name] == most[name] ? least[name] : least[name] "–" most[name] }
        function widen(name, value) {
            if (!(name in least)) { least[name] = most[name] = value }
            if (value < least[name]) least[name] = value
            if (value > most[name]) most[name] = value
        }
        # Percent of the 64 warps that a multiprocessor can hold: 64 K registers, of which a warp takes multiples of 256; 228 KB of
        # shared memory, of which each cube takes 1 KB more than it asks for; 32 cubes.
        function occupancy(warps, registers, shared,   cubes, most) {
            most = 4 * int(64 / int((registers * 32 + 255) / 256))
            cubes = int((most < 64 ? most : 64) / warps)
            most = int(233472 / (int((shared + 127) / 128) * 128 + 1024))
            if (most < cubes) cubes = most
            if (cubes > 32) cubes = 32
            return int(100 * cubes * warps / 64 + 0.5)
        }
        {
            split($4, unit, " ")
            units = unit[1] * unit[2] * unit[3]
            spilled = $10 + $11 + $12
        }
        $2 !~ /gpu_kernels::/ {
            if (!($3 in seen)) others++
            if (!($3 in seen) && $11 + $12) { spilling++; if ($12 > worst) worst = $12 }
            seen[$3] = 1
            next
        }
        {
            kernel = $2
            sub(/.*gpu_kernels::/, "", kernel); sub(/::[A-Za-z]*$/, "", kernel); sub(/::kernel::/, "::", kernel)
            part = $1; sub(/.*-/, "", part)
            if (part != "answers" && index(" " parts[kernel] ",", " " part ",") == 0) {
                parts[kernel] = parts[kernel] (parts[kernel] ? ", " : "") part
            }
            if (!($3 in seen)) variants[kernel]++
            seen[$3] = 1
            widen("units " kernel, units); widen("cubes " kernel, $6); widen("cubes " kernel, $7); widen("registers " kernel, $8)
            widen("shared " kernel, $9); widen("spilled " kernel, spilled)
            widen("occupancy " kernel, occupancy(int((units + 31) / 32), $8, $9))
        }
        END {
            print "| kernel | variants | parts | cubes | units | registers | shared, bytes | stack and spills, bytes | occupancy, % |"
            print "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
            for (kernel in variants) {
                where = parts[kernel] ? parts[kernel] : "answers"
                printf "| `%s` | %d | %s | %s | %s | %s | %s | %s | %s |\n", kernel, variants[kernel], where, range("cubes " kernel),
                    range("units " kernel), range("registers " kernel), range("shared " kernel), range("spilled " kernel),
                    range("occupancy " kernel) | "sort"
            }
            close("sort")
            printf "\nKernels of burn and CubeCL: %d, of which %d spill, the worst reads %d bytes back.\n", others, spilling, worst
        }' "$out/kernels.tsv"
}

failed=0
: >"$out/kernels.tsv"
for type in "${types[@]}"; do
    for part in "${parts[@]}"; do
        folder=$out/$type-$part
        if ! launch "$type" "$part"; then
            echo "error: $type $part: $(grep -h -m 1 error "$folder/lines.jsonl" "$folder/log.txt")" >&2
            failed=1
        fi
        for module in "$folder"/*.ptx; do
            assemble "$module" || { echo "error: ptxas refuses $module" >&2 && failed=1; }
        done >"$folder/registers.tsv"
        join "$folder" | tee -a "$out/kernels.tsv" | awk -v run="$type $part" \
            '/gpu_kernels::/ { ours++ } END { printf "%-16s %3d kernels, %d of them ours\n", run, NR, ours }' >&2
    done
done
tables | tee "$out/registers.md"
exit "$failed"
