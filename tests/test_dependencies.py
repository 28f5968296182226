"""What is locked fits what is asked for, and the audit finds what it should."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def script(name: str) -> ModuleType:
    """Import a program of `scripts/`."""
    folder = str(ROOT / "scripts")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def test_the_lock_fits_the_project() -> None:
    """Every requirement is locked with hashes, at a version that it lets in."""
    assert script("lock").problems() == []


def test_nothing_vulnerable_is_locked_or_allowed() -> None:
    """Neither the lock nor the oldest versions that are let in have a known vulnerability."""
    ran = subprocess.run(
        [sys.executable, ROOT / "scripts" / "audit.py"], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr


def test_the_audit_finds_what_is_locked_and_what_is_allowed() -> None:
    """A pin in a range is found, and so is a floor, though the pin be newer."""
    advisory = [{"id": "X-1", "package": "Some.Thing", "affected": "<2", "summary": "s"}]
    findings = script("audit").findings
    old, new = Requirement("some-thing>=1,<3"), Requirement("some-thing>=2,<3")

    assert len(findings(advisory, {"some-thing": Version("1.9")}, [new])) == 1
    assert len(findings(advisory, {"some-thing": Version("2.1")}, [old])) == 1
    assert findings(advisory, {"some-thing": Version("2.0")}, [new]) == []


RULES = """
import sys
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
if sys.argv[1] == "other":
    other = FileDescriptorProto(name="buf/validate/validate.proto", package="buf.validate")
    other.message_type.add(name="Another")
    descriptor_pool.Default().AddSerializedFile(other.SerializeToString())
import maitred.client, maitred.v1.session_pb2
if sys.argv[1] == "again":
    from maitred.v1 import _rules_descriptors
    same = _rules_descriptors.DESCRIPTOR.serialized_pb
    descriptor_pool.Default().AddSerializedFile(same)
print("buf" in sys.modules)
"""


def test_the_field_rules_get_along_with_others() -> None:
    """Nothing is named `buf` at the top, and another's copy of the rules, old or same, is borne."""
    for kind in ("alone", "other", "again"):
        ran = subprocess.run(
            [sys.executable, "-c", RULES, kind], capture_output=True, text=True, check=False
        )

        assert (ran.stdout.strip(), ran.stderr) == ("False", "")
