"""Write the blocking client from the asyncio one: `_async` is the source, `_sync` the copy.

    python scripts/unasync.py            write
    python scripts/unasync.py --check    fail when a file is stale, missing or left over

A rule that matches nothing fails, so that the list below holds what is needed and no more.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLIENT = Path(__file__).resolve().parent.parent / "client" / "maitred" / "client"
SOURCE = CLIENT / "_async"
TARGET = CLIENT / "_sync"
HAND_WRITTEN = frozenset({"transport.py"})
"""Where the two libraries differ too much for a rule; their tests hold both to the same."""

HEADER = "# generated: edit _async and run scripts/unasync.py\n"
RULES: tuple[tuple[str, str], ...] = (
    (r"The client for asyncio; the blocking one in `_sync` is generated from it\.",
     "The blocking client, generated from the one for asyncio in `_async`."),
    (r"maitred\.client\._async", "maitred.client._sync"),
    (r"\bAsync(Iterator)\b", r"\1"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basync def\b", "def"),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(.*?\[.*\], str\])\]", r"\1"),
    (r", Awaitable\b|\bAwaitable, ", ""),
    (r"\bAwait\b", "Wait for"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"__aiter__", "__iter__"),
    (r"__anext__", "__next__"),
    (r"\baclose\b", "close"),
)  # fmt: skip


def main() -> int:
    """Write or check the copy; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(description="Write the blocking client.")
    parser.add_argument("--check", action="store_true", help="only compare")
    check: bool = parser.parse_args().check
    wanted = dict(translated())
    found = {path.name: path.read_text("utf-8") for path in TARGET.glob("*.py")}
    missing = sorted(HAND_WRITTEN - found.keys())
    if missing:
        print(f"unasync: {TARGET} lacks the hand-written {', '.join(missing)}", file=sys.stderr)
        return 1
    stale = sorted(name for name, text in wanted.items() if found.get(name) != text)
    left_over = sorted(found.keys() - wanted.keys() - HAND_WRITTEN)
    if check:
        for name in (*stale, *left_over):
            print(f"unasync: {TARGET / name} is stale; run scripts/unasync.py", file=sys.stderr)
        return 1 if stale or left_over else 0
    for name in stale:
        (TARGET / name).write_text(wanted[name], "utf-8")
    for name in left_over:
        (TARGET / name).unlink()
    return 0


def translated() -> Iterator[tuple[str, str]]:
    """Yield name and blocking text of every generated file.

    Raises: SystemExit where a rule matches nothing.
    """
    unused = {pattern for pattern, _ in RULES}
    for path in sorted(SOURCE.glob("*.py")):
        if path.name in HAND_WRITTEN:
            continue
        text = path.read_text("utf-8")
        for pattern, replacement in RULES:
            text, count = re.subn(pattern, replacement, text)
            if count:
                unused.discard(pattern)
        yield path.name, formatted(HEADER + text)
    if unused:
        raise SystemExit(f"unasync: rules that match nothing: {', '.join(sorted(unused))}")


def formatted(text: str) -> str:
    """Lay text out as `make format` would, which would otherwise find it changed."""
    # Without the configuration the order of imports depends on which files are there already.
    known = "lint.isort.known-first-party = ['maitred']"
    for arguments in (
        ["check", "--quiet", "--config", known, "--select", "I", "--fix"],
        ["format", "--quiet"],
    ):
        text = subprocess.run(
            [ruff(), *arguments, "--stdin-filename", str(TARGET / "module.py"), "-"],
            input=text, capture_output=True, text=True, check=True, cwd=CLIENT,
        ).stdout  # fmt: skip
    return text


def ruff() -> str:
    """Find ruff beside this interpreter, else on the path."""
    beside = Path(sys.executable).with_name("ruff")
    found = str(beside) if beside.exists() else shutil.which("ruff")
    if found is None:
        raise SystemExit("unasync: ruff is not installed")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
