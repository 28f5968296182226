"""Units that numbers are counted in."""

from __future__ import annotations

from typing import Final

NS: Final = 1_000_000_000
"""Nanoseconds in a second."""
