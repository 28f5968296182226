#!/usr/bin/env bash
# Creates the environment named by the first argument with maitred, editable, and all its tools.
# Takes uv where there is one, else venv and pip. An environment that is there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
lock=requirements.lock  # of every extra, with hashes; make lock writes it
say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

python=${PYTHON:-}
if [ -n "$python" ]; then
    recent "$python" || fail "$python is not a Python 3.11 or newer"
else
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if recent "$candidate"; then python=$candidate; break; fi
    done
fi

uv=$(command -v uv || true)
[ -z "$uv" ] && [ -x "$venv/bin/uv" ] && uv=$venv/bin/uv

if ! [ -x "$venv/bin/python" ]; then
    say "creating $venv"
    # uv fetches a Python where the machine has none that will do.
    if [ -n "$uv" ]; then
        "$uv" venv --quiet --python "${python:->=3.11}" "$venv" || fail "uv could not create $venv"
    elif [ -z "$python" ]; then
        fail "needs Python 3.11 or newer, or uv: apt-get install python3 python3-venv"
    elif ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        # Debian's python3 comes without ensurepip; what it left behind would look like a success.
        rm -rf "$venv"
        fail "$python can't create environments: apt-get install python3-venv (or install uv)"
    fi
fi
recent "$venv/bin/python" || fail "$venv holds a Python older than 3.11: remove $venv"

say "installing maitred and its tools into $venv (about a minute the first time)"
if [ -n "$uv" ]; then
    "$uv" pip install --python "$venv/bin/python" --require-hashes --requirement "$lock"
    "$uv" pip install --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
else
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        "$venv/bin/python" -m ensurepip >/dev/null 2>&1 ||
        fail "$venv has no pip: remove $venv, or install uv"
    pip="$venv/bin/python -m pip install --disable-pip-version-check"
    $pip --require-hashes --requirement "$lock"
    $pip --no-deps --no-build-isolation --editable .
fi
say "done"
