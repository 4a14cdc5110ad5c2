#!/usr/bin/env bash
# Trains nano: examples/nano/train.sh DATA OUT [--minutes N]
# DATA is what `nano data` made. Each stage takes as many steps as its file in stages/ says, or N minutes; a run that was stopped goes on
# where it was, and one that is done is not repeated.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
data=$(realpath "$1") out=$2
shift 2
mkdir -p "$out"
out=$(realpath "$out")
cd "$here/../.."
cargo build --release --locked -p qwen3-omni-train --bin qwen3-omni-train
cargo build --release --locked -p qwen3-omni-examples --example nano
train=target/release/qwen3-omni-train nano=target/release/examples/nano

# A stage that is done has a link to its last checkpoint: run NAME STAGE MODEL FILE=SHARE...
run() {
    local name=$1 stage=$2 model=$3 file
    shift 3
    [ ! -e "$out/$name.done" ] || return 0
    local lines=() more=()
    for file in "$@"; do case $file in -*) more+=("$file") ;; *) lines+=(--data "$file") ;; esac; done
    "$train" "$stage" --model "$model" "${lines[@]}" --out "$out/$name" --settings "$here/stages/$name.toml" \
        "${minutes[@]}" "${more[@]}" >"$out/$name.last"
    ln -sfn "$(cat "$out/$name.last")" "$out/$name.done"
}
minutes=("$@")

[ -e "$out/start" ] || "$nano" start "$data" "$out/start"
lines=$data/train

# The codec and the thinker need nothing of each other: each has a core.
codec() {
    run codec codec "$out/start" "$lines/spoken.jsonl" --fresh --discriminator
    [ -e "$out/codes/spoken.jsonl" ] || "$train" encode --codec "$out/codec.done" --data "$lines/spoken.jsonl" --out "$out/codes"
    run vocoder codec "$out/codec.done" "$lines/spoken.jsonl" --decoder-only
}
codec &
run look sft "$out/start" "$lines/text.jsonl=5" "$lines/heard.jsonl=10" "$lines/pictures.jsonl=70" \
    "$lines/pictures-heard.jsonl=10" "$lines/clips.jsonl=5"
run thinker sft "$out/look.done" "$lines/text.jsonl=8" "$lines/talks.jsonl=8" "$lines/tools.jsonl=10" "$lines/heard.jsonl=34" \
    "$lines/pictures.jsonl=14" "$lines/pictures-heard.jsonl=16" "$lines/clips.jsonl=10"
wait %1
[ -e "$out/joined" ] || "$nano" join "$out/thinker.done" "$out/joined" --part "code2wav.=$out/vocoder.done"
run talker talker "$out/joined" "$out/codes/spoken.jsonl"
echo "$out/talker.done"
