#!/usr/bin/env bash
# Tests two servers behind HAProxy with the configuration in haproxy/: balance, a server that dies, drain, restarts under load.
# Takes less than a minute; needs haproxy and python3. The exit code says it all.
#
#     deploy/test.sh target/debug/qwen3-omni-server examples/assets/nano
set -euo pipefail
if [ $# != 2 ]; then
    echo "usage: $0 PROGRAM MODEL" >&2
    exit 2
fi
for tool in haproxy python3; do
    command -v "$tool" >/dev/null || { echo "$0: $tool is not installed" >&2; exit 2; }
done
# Hung is failed.
exec timeout --kill-after=5 180 python3 "$(dirname "$0")/test_haproxy.py" "$@"
