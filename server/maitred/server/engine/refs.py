"""Names of aggregates."""

from __future__ import annotations

from maitred.server.stores.base import Kind, Ref


def session_ref(session_id: str) -> Ref:
    """Name a session."""
    return Ref(Kind.SESSION, session_id)


def menu_ref(menu_id: str) -> Ref:
    """Name a menu."""
    return Ref(Kind.MENU, menu_id)
