#!/usr/bin/env bash
# Trains nano: examples/nano/train.sh DATA OUT [OPTION...]
# DATA is what `nano data` made. Options go to every stage, as --minutes 5, which ends each after five minutes: for a trial, with an OUT of
# its own. A run that was stopped goes on where it was; a stage whose settings or model have changed is refused until it is removed.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
data=$(realpath "$1") out=$2
shift 2
options=("$@")
mkdir -p "$out"
out=$(realpath "$out")
cd "$here/../.."
cargo build --release --locked -p qwen3-omni-train -p qwen3-omni-nano --bins
train=target/release/qwen3-omni-train nano=target/release/nano

export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-1}
# Keeps glibc from returning memory to the kernel after each step: faulting the pages in again takes a tenth of the time.
export MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TOP_PAD_=67108864

# Refuses what was made of something else: made NAME INPUT...
made() {
    local from=$out/$1.from
    [ -e "$from" ] || printf '%s\n' "${@:2}" >"$from"
    if ! printf '%s\n' "${@:2}" | cmp -s "$from"; then
        echo "$out/$1 was made of something else than now: remove it and $from, and what was made of it" >&2
        exit 1
    fi
}

# Runs a stage, or the rest of it, and links its last checkpoint as NAME.done: run NAME COMMAND MODEL FILE[=SHARE]...
run() {
    local name=$1 command=$2 model file lines=() more=()
    model=$(readlink -f "$3")
    for file in "${@:4}"; do case $file in -*) more+=("$file") ;; *) lines+=(--data "$file") ;; esac; done
    made "$name" "$model" "${lines[@]}"
    "$train" "$command" --strict --model "$model" "${lines[@]}" --out "$out/$name" --settings "$here/stages/$name.toml" \
        "${more[@]}" "${options[@]}" >"$out/$name.last"
    ln -sfn "$(cat "$out/$name.last")" "$out/$name.done"
}

thinker=${THINKER:+$(realpath "$THINKER")}
made start "$thinker"
[ -e "$out/start" ] || "$nano" start "$data" "$out/start" ${thinker:+--thinker "$thinker"}
lines=$data/train

# What is spoken and what is understood are trained beside each other, on a core each. Neither outlives the other's failure.
spoken() {
    run codec codec "$out/start" "$lines/spoken.jsonl" --fresh
    made codes "$(readlink -f "$out/codec.done")" "$lines/spoken-words.jsonl" "$lines/spoken.jsonl"
    [ -e "$out/codes/spoken.jsonl" ] ||
        "$train" encode --strict --codec "$out/codec.done" --data "$lines/spoken-words.jsonl" --data "$lines/spoken.jsonl" --out "$out/codes"
    [ -e "$out/codes/lexicon.jsonl" ] || "$nano" lexicon "$out/codes"
    # The talker reads the thinker's states where a prompt has media: those of an early thinker do for most of its training.
    until [ -e "$out/look.done" ]; do sleep 5; done
    join early "$out/look.done" "code2wav.=$out/codec.done"
    run words talker "$out/early" "$out/codes/lexicon.jsonl"
}
# Puts parts into one checkpoint: join NAME MODEL PREFIX=DIR..., or of a thinker alone: join NAME MODEL --text-only
join() {
    local name=$1 model parts=() part
    model=$(readlink -f "$2")
    for part in "${@:3}"; do
        case $part in
        -*) parts+=("$part") ;;
        *) parts+=(--part "${part%%=*}=$(readlink -f "${part#*=}")") ;;
        esac
    done
    made "$name" "$model" "${parts[@]}"
    [ -e "$out/$name" ] || "$nano" join "$model" "$out/$name" "${parts[@]}"
}
set -m
spoken &
spoken=$!
trap 'kill -- -$spoken 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
# bash tells how a job ended only once.
ended=
finish() { [ -n "$ended" ] || { wait "$spoken"; ended=1; }; }
still_well() { kill -0 "$spoken" 2>/dev/null || finish; }
if [ -n "$thinker" ]; then
    ln -sfn "$out/start" "$out/look.done"
else
    run look sft "$out/start" "$lines/text.jsonl=5" "$lines/heard-short.jsonl=20" "$lines/pictures.jsonl=60" \
        "$lines/pictures-heard.jsonl=10" "$lines/clips.jsonl=5"
fi
still_well
run ways sft "$out/look.done" "$lines/clips-ways.jsonl=70" "$lines/heard.jsonl=15" "$lines/pictures.jsonl=10" "$lines/talks.jsonl=5"
still_well
run thinker sft "$out/ways.done" "$lines/text.jsonl=6" "$lines/talks.jsonl=6" "$lines/long-talks.jsonl=4" "$lines/tools.jsonl=6" \
    "$lines/heard.jsonl=34" "$lines/pictures.jsonl=12" "$lines/pictures-heard.jsonl=8" "$lines/clips.jsonl=18" "$lines/clips-ways.jsonl=6"
# Codes and their encoder stay as they are: the vocoder goes on beside the talker.
until [ -e "$out/codes/lexicon.jsonl" ]; do
    still_well
    sleep 5
done
run vocoder codec "$out/codec.done" "$lines/spoken-joined.jsonl=70" "$lines/spoken.jsonl=30" --decoder-only
# The variants that only write.
still_well
run thinking sft "$out/thinker.done" "$lines/thinking.jsonl=70" "$lines/text.jsonl=30"
join nano-thinking "$out/thinking.done" --text-only
still_well
run captioner sft "$out/thinker.done" "$lines/captions.jsonl"
join nano-captioner "$out/captioner.done" --text-only
finish
trap - EXIT
join joined "$out/thinker.done" "code2wav.=$out/vocoder.done" "talker.=$out/words.done"
run settle talker "$out/joined" "$out/codes/lexicon.jsonl"
printf '%s\n' "$out/settle.done" "$out/nano-thinking" "$out/nano-captioner"
