"""The current session of a thread or task, so that tools need no session argument."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar, overload

_Handle = TypeVar("_Handle")


class NoCurrentSession(LookupError):
    """No `with client.session(…):` is around the caller, or one of the other kind of client."""


class _Entered(NamedTuple):
    handle: object
    outer: _Entered | None


# A chain instead of tokens: a handle that is entered in several tasks keeps nothing in itself.
_current: ContextVar[_Entered | None] = ContextVar("maitred_current_session", default=None)


def enter(handle: object) -> None:
    """Make a handle the current one."""
    _current.set(_Entered(handle, _current.get()))


def leave() -> None:
    """Restore what was current before."""
    entered = _current.get()
    if entered is None:
        raise NoCurrentSession("left a session that was not entered in this thread or task")
    _current.set(entered.outer)


@overload
def current_session() -> Any: ...
@overload
def current_session(kind: type[_Handle]) -> _Handle: ...
def current_session(kind: type[Any] = object) -> Any:
    """Return the handle of the innermost `with client.session(…):` around the caller.

    Give the class of the handle (`AsyncSessionHandle` or `SessionHandle`) to have it checked and
    typed.

    Raises: NoCurrentSession.
    """
    entered = _current.get()
    if entered is None:
        raise NoCurrentSession("no current session: use `with client.session(session_id):`")
    if not isinstance(entered.handle, kind):
        raise NoCurrentSession(
            f"the current session is a {type(entered.handle).__name__}, not a {kind.__name__}"
        )
    return entered.handle
