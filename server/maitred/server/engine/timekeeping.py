"""Finds what a wrong clock has written, and corrects it by events."""

from __future__ import annotations

from typing import Any, NamedTuple

import structlog

from maitred.server.domain import sessions
from maitred.server.engine.call import SYSTEM_CALL
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.errors import MaitredError
from maitred.server.kinds.session import SESSION, session_ref
from maitred.server.stores.base import HeadFilter
from maitred.server.units import NS
from maitred.v1.event_pb2 import Event, SessionExtended
from maitred.v1.state_pb2 import SESSION_STATUS_ACTIVE, Session

SLACK_S = 60
"""An expiry so much later than it can be was not written by a clock that was right."""

_PAGE = 200

log = structlog.get_logger(__name__)


class Repaired(NamedTuple):
    """What was looked at, and put right."""

    sessions: int
    repaired: int
    failed: tuple[str, ...]


async def warn_if_behind(engine: Engine) -> bool:
    """Say so where the youngest session was made later than it is now."""
    heads = await engine.store.list_heads(SESSION, HeadFilter(), None, 1)
    if not heads:
        return False
    made_ns = Session.FromString(heads[0].body).created_at.ToNanoseconds()
    ahead_s = (made_ns - engine.clock.now_ns()) / NS
    if ahead_s <= SLACK_S:
        return False
    log.warning(
        "the data are from the future",
        ahead_s=ahead_s,
        hint="this clock is behind, or one was ahead: see maitred repair-clock",
    )
    return True


async def repair(engine: Engine) -> Repaired:
    """Count the idle time anew of sessions that expire later than they can. Raises: StoreError."""
    seen = repaired = 0
    failed: list[str] = []
    after: int | None = None
    where = HeadFilter(statuses=(SESSION_STATUS_ACTIVE,))
    while heads := await engine.store.list_heads(SESSION, where, after, _PAGE):
        for head in heads:
            seen += 1
            if not _is_late(Session.FromString(head.body), engine.clock.now_ns()):
                continue
            command = Command(session_ref(head.ref.id), _extend)
            try:
                result = await engine.execute(command, SYSTEM_CALL)
            except MaitredError as error:
                failed.append(f"session {head.ref.id}: {error}")
                continue
            repaired += result.message is not None
        after = heads[-1].position
    return Repaired(seen, repaired, tuple(failed))


def _extend(session: Any, now_ns: int) -> Event | None:
    if not _is_late(session, now_ns):
        return None
    return Event(session_extended=SessionExtended(idle_seconds=session.idle_seconds))


def _is_late(session: Session, now_ns: int) -> bool:
    latest_s = now_ns // NS + session.idle_seconds + SLACK_S
    return sessions.is_active(session) and session.expires_at.seconds > latest_s
