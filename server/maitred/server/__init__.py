"""The maitred server: sessions, orders and payments behind one gRPC contract."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when asked for: reading package metadata costs milliseconds at start."""
    if name == "__version__":
        from importlib.metadata import version

        return version("maitred")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
