"""HTTP beside gRPC, in the same event loop: the listener, and the webhooks that come in through it.

What it stands on comes with an extra and is imported only when it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

_PACKAGES: Final = frozenset({"h11", "httptools", "starlette", "uvicorn"})


class MissingExtra(ImportError):
    """A package of the extra is not installed; the message is one line for people."""


@contextlib.contextmanager
def needing_extra() -> Iterator[None]:
    """Import inside of this what comes with the extra.

    Raises: MissingExtra.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        extra = "stripe" if package == "starlette" else "server"
        raise MissingExtra(
            f"serving HTTP needs {package}, which is not installed: pip install 'maitred[{extra}]'",
            name=package,
        ) from error
