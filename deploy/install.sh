#!/bin/sh
# Installs the program `qwen3-omni` from a release into ~/.local/bin, or where PREFIX says:
#   curl -fsSL RELEASES/install.sh | RELEASES=https://… sh
# RELEASES is where the archives lie that package.sh makes, with their checksums.
set -eu

: "${RELEASES:?the address where the archives lie}"
directory=${PREFIX:-$HOME/.local}/bin

case $(uname -s)-$(uname -m) in
Linux-x86_64) target=x86_64-unknown-linux-gnu ;;
Linux-aarch64 | Linux-arm64) target=aarch64-unknown-linux-gnu ;;
Darwin-arm64) target=aarch64-apple-darwin ;;
*)
    echo "there is no archive for $(uname -s) on $(uname -m): cargo install qwen3-omni-cli builds it" >&2
    exit 1
    ;;
esac

archive=qwen3-omni-$target.tar.gz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
curl -fsSLO "$RELEASES/$archive"
curl -fsSLO "$RELEASES/$archive.sha256"
if command -v sha256sum >/dev/null; then sha256sum -c --quiet "$archive.sha256"; else shasum -a 256 -c "$archive.sha256" >/dev/null; fi
tar xzf "$archive"
mkdir -p "$directory"
install -m 755 qwen3-omni "$directory/qwen3-omni"
echo "installed $directory/qwen3-omni: \`qwen3-omni serve\` starts a server with a page to talk to"
case :$PATH: in *:"$directory":*) ;; *) echo "$directory is not on PATH" ;; esac
