#!/usr/bin/env bash
# Every target for so many seconds, as many at a time as there are processors, with the stable compiler:
#   fuzz/run.sh [SECONDS] [SEED] [server]
# With `server` the parsers of the server's requests and events instead of the readers of files; they need the whole model to be built.
# The same seed tries the same inputs, as many as there is time for. Inputs that fail are left in fuzz/artifacts and printed.
set -euo pipefail
cd "$(dirname "$0")"
export seconds=${1:-30} seed=${2:-1} built=${CARGO_TARGET_DIR:-target}/debug

case ${3-} in
server) package=qwen3-omni-fuzz-server targets="requests events" ;;
*) package=qwen3-omni-fuzz targets="video audio image checkpoint" ;;
esac
RUSTC_WRAPPER=$PWD/instrumented cargo build --locked -p "$package"

run() {
    local fixtures=../crates/testkit/fixtures corpus log
    corpus=$(mktemp -d) log=$(mktemp)
    mkdir -p artifacts/"$1"
    case $1 in
    requests | events) cp server/seeds/"$1"/* "$corpus" ;;
    checkpoint) cp "$fixtures"/tiny/config.json "$fixtures"/quantized/* "$corpus" ;;
    *) find "$fixtures"/media -type f ! -name README.md -exec cp {} "$corpus" \; ;;
    esac
    if "$built/$1" -seed="$seed" -max_total_time="$seconds" -timeout=60 -artifact_prefix=artifacts/"$1"/ "$corpus" >"$log" 2>&1; then
        echo "$1: $(tail -1 "$log")"
        rm -r "$corpus" "$log"
    else
        tail -40 "$log"
        for input in artifacts/"$1"/*; do
            echo "$1 fails for $input, in base64: $(base64 -w0 "$input" | head -c 65536)"
        done
        return 1
    fi
}
export -f run
printf '%s\n' $targets | xargs -P "$(nproc)" -I{} bash -c 'set -euo pipefail; run {}'
