"""Rules of the house that no linter can say."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

import maitred.server

ROOT = Path(__file__).resolve().parent.parent

MOST_LINES = 400

FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.:/-])/(?:home|root|Users|work)/\w",
    "an index of somebody's network": r"(?:index[-_]url|find[-_]links)\s*=",
    "a note to do it later": r"\b(?:TO[D]O|FIX[M]E)\b",
}


@cache
def committed() -> tuple[Path, ...]:
    """Every file that is in the repository or would be after `git add`."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone: an unpacked archive has no list of its files")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = listed.stdout.decode().split("\0")
    return tuple(path for name in names if name and (path := ROOT / name).is_file())


def is_generated(text: str) -> bool:
    """Whether the first line says that a program wrote the file."""
    return "generated" in text.partition("\n")[0].lower()


def sources() -> list[Path]:
    """The Python files of the server and the client."""
    return sorted(p for folder in ("server", "client") for p in (ROOT / folder).rglob("*.py"))


def test_modules_stay_readable() -> None:
    """No module that is written by hand has more than 400 lines."""
    texts = {path: path.read_text("utf-8") for path in sources()}
    long = {
        str(path.relative_to(ROOT)): text.count("\n")
        for path, text in texts.items()
        if text.count("\n") > MOST_LINES and not is_generated(text)
    }

    assert not long


STORE_READS = r"\.store\.(?:load|versions|events?|event_by_request|claim|list_\w+|feed\w*)\b"


@pytest.mark.parametrize("package", ["services", "payments"])
def test_services_read_the_store_behind_its_barrier(package: str) -> None:
    """What is answered to a caller is read through `Engine.reads`, which never runs ahead."""
    folder = ROOT / "server/maitred/server" / package
    found = [
        f"{path.name}: {match.group()}"
        for path in folder.rglob("*.py")
        for match in re.finditer(STORE_READS, path.read_text("utf-8"))
    ]

    assert not found


@pytest.mark.parametrize("root", ["server", "client", "generated"])
def test_the_namespace_is_nobodys_package(root: str) -> None:
    """A file `maitred/__init__.py` in one root would hide the other two."""
    folder = ROOT / root / "maitred"

    assert folder.is_dir()
    assert not list(folder.glob("__init__.py*"))


@pytest.mark.parametrize(
    "leaf", ["server/maitred/server", "client/maitred/client", "generated/maitred/v1"]
)
def test_types_reach_those_who_import(leaf: str) -> None:
    """Each leaf of the namespace is a package that says it is typed."""
    assert (ROOT / leaf / "__init__.py").is_file()
    assert (ROOT / leaf / "py.typed").is_file()


def test_the_changelog_tells_of_this_version() -> None:
    """Top of the changelog, pyproject.toml and the running package name one version."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    top = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)

    assert top is not None
    assert top[1] == declared
    assert maitred.server.__version__ == declared


def test_make_help_lists_every_target() -> None:
    """A target that `make help` does not list does not exist for who is new here."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    targets = set(
        re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    )
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = {line.split()[0] for line in shown.stdout.splitlines()}

    assert {"run", "test", "check"} <= targets
    assert listed == targets


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_of_one_machine_is_committed(what: str) -> None:
    """What only holds where it was written has no place in the repository."""
    found = []
    for path in committed():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # binary: a golden database, a picture
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(FORBIDDEN[what], line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")

    assert not found
