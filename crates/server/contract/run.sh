#!/usr/bin/env bash
# Starts the server with nano behind it and runs the tests of stock clients against it. run.sh [PROGRAM] [PYTEST ARGUMENT…]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)

program=${1-}
if [ -z "$program" ]; then
    (cd "$root" && cargo build --locked -p qwen3-omni-server --features mp3)
    program=${CARGO_TARGET_DIR:-$root/target}/debug/qwen3-omni-server
else
    shift
fi

# Packages of the clients, outside of what is under version control.
made=$root/target/contract
mkdir -p "$made/js"
[ -x "$made/venv/bin/pytest" ] || { python3 -m venv "$made/venv" && "$made/venv/bin/pip" install -q -r "$here/requirements.txt"; }
cp "$here"/js/* "$made/js/"
[ -d "$made/js/node_modules" ] || npm install --silent --no-audit --no-fund --prefix "$made/js"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --model "$root/examples/assets/nano" --served-model-name nano --port "$port" --api-key sk-contract \
    --max-answers 4 --max-waiting 4 --allow-origin http://allowed.example >"$made/server.log" 2>&1 &
server=$!
stop() {
    local status=$?
    kill -TERM $server 2>/dev/null && wait $server || true
    [ $status = 0 ] || tail -n 20 "$made/server.log"
}
trap stop EXIT

export BASE_URL=http://127.0.0.1:$port
for _ in $(seq 300); do
    curl -sf "$BASE_URL/health" >/dev/null && break
    sleep 0.1
done
cd "$here"
CONTRACT_JS=$made/js "$made/venv/bin/pytest" -p no:cacheprovider . "$@"
