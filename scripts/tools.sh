#!/usr/bin/env bash
# Builds grpcurl into .cache/bin, where Go is present, for the test of the README's recipes.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v1.9.3
target=.cache/bin/grpcurl
[ -x "$target" ] && exit 0
if ! command -v go >/dev/null; then
    echo "tools: no Go on this machine; the grpcurl recipes of the README are not tested"
    exit 0
fi
echo "tools: building grpcurl $version (once, about a minute)"
GOBIN="$PWD/.cache/bin" GOFLAGS=-modcacherw go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version" ||
    echo "tools: grpcurl could not be built; the recipes of the README are not tested" >&2
