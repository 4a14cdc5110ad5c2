#!/usr/bin/env bash
# Builds the program for this machine and packs it for install.sh and `cargo binstall`: package.sh [FEATURES]
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
built=${CARGO_TARGET_DIR:-target}
cargo build --release --locked -p qwen3-omni-cli --features "mp3${1:+,$1}"
out=$built/release-archives
mkdir -p "$out"
strip -o "$out/qwen3-omni" "$built/release/qwen3-omni" 2>/dev/null || cp "$built/release/qwen3-omni" "$out/qwen3-omni"
archive=qwen3-omni-$target.tar.gz
tar czf "$out/$archive" -C "$out" qwen3-omni -C "$PWD" LICENSE
rm "$out/qwen3-omni"
cd "$out"
if command -v sha256sum >/dev/null; then sha256sum "$archive"; else shasum -a 256 "$archive"; fi >"$archive.sha256"
echo "$out/$archive"
