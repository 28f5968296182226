#!/usr/bin/env bash
# Builds the wheel, installs it without [server] in an environment of its own, outside the
# repository, and imports what `pip install maitred` promises there.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$PWD/${1:-.venv}/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$bin/python" -m build --wheel --no-isolation --outdir "$work" . >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
uv=$(command -v uv || true)
[ -z "$uv" ] && [ -x "$bin/uv" ] && uv=$bin/uv
if [ -n "$uv" ]; then
    "$uv" venv --quiet --python "$bin/python" "$work/venv"
    "$uv" pip install --quiet --python "$work/venv/bin/python" "$work"/*.whl
else
    "$bin/python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$work"/*.whl
fi

cd "$work"
venv/bin/python - <<'EOF'
import importlib.util as find
from importlib.metadata import version

import maitred.client
import maitred.v1.session_pb2
import maitred.v1.session_pb2_grpc

for name in ("server", "client", "generated", "tests", "buf"):
    assert find.find_spec(name) is None, f"the wheel installs a package named {name}"
assert maitred.client.__file__, "maitred.client has no __init__.py"
for name in ("aiosqlite", "protovalidate", "structlog"):
    assert find.find_spec(name) is None, f"the client pulls in {name}"
print(f"wheel: maitred {version('maitred')} imports without [server]")
EOF
