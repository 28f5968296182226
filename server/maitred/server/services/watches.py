"""The streams: WatchSession, WatchEvents and WatchPayment, each a cursor over the log."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from google.protobuf.message import Message

from maitred.server.domain import changes
from maitred.server.domain.evolve import evolve_session
from maitred.server.engine import eventlog
from maitred.server.engine.call import Call
from maitred.server.engine.engine import Engine
from maitred.server.engine.hub import DELETED, Topic
from maitred.server.engine.reader import Snapshot
from maitred.server.engine.refs import session_ref
from maitred.server.errors import (
    InvalidField,
    PaymentNotFound,
    SessionDeleted,
    VersionOutOfRange,
    Violation,
)
from maitred.server.stores.base import Kind, Ref, RowFilter, StoredEvent, Table
from maitred.v1 import payment_pb2, session_pb2
from maitred.v1.state_pb2 import Payment, Session

PAGE = 128
"""Events read from the store, and sent in one message, at a time."""
EPOCH_BYTES = 16

HEARTBEAT = session_pb2.Heartbeat()


class WatchService:
    """Streams of what became durable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def WatchSession(
        self, request: session_pb2.WatchSessionRequest, call: Call
    ) -> AsyncIterator[bytes | Message]:
        """Stream a session: every version once and in order, or the newest state."""
        ref = session_ref(request.session_id)
        latest = request.mode == session_pb2.WATCH_MODE_LATEST
        with self._engine.hub.watch(ref) as topic:
            try:
                snapshot = await self._engine.session(request.session_id)
            except SessionDeleted:
                if not _resumes(request):
                    raise
                # Who was cut off in the moment of the deletion still learns of the end.
                yield session_pb2.WatchSessionResponse(end=session_pb2.WatchEnd(deleted=True))
                return
            seen = self._resume_after(request, snapshot)
            if seen is None or (latest and seen < snapshot.version):
                yield self._snapshot(snapshot)
                seen = snapshot.version
            topic.begin(snapshot.version, snapshot.state)
            while True:
                if not await self._engine.hub.news(topic, seen):
                    yield self._session_heartbeat(seen)
                    continue
                if latest:
                    try:
                        snapshot = await self._engine.session(request.session_id)
                    except SessionDeleted:
                        yield self._end(topic.version)
                        return
                    if snapshot.version > seen:
                        yield self._snapshot(snapshot)
                        seen = snapshot.version
                    continue
                entry = topic.after(seen)
                if entry is not None and entry.version == topic.version:
                    # The usual case, kept flat: the same bytes go to every watcher.
                    yield entry.message
                    seen = entry.version
                    if entry.change == DELETED:
                        yield self._end(seen)
                        return
                    continue
                async for version, message, deleted in self._events_after(ref, topic, seen):
                    yield message
                    seen = version
                    if deleted:
                        yield self._end(version)
                        return

    async def WatchPayment(
        self, request: payment_pb2.WatchPaymentRequest, call: Call
    ) -> AsyncIterator[bytes | Message]:
        """Stream payment state and payment: what is, then every change of it."""
        ref, hub = session_ref(request.session_id), self._engine.hub
        told = _resumes(request)
        with hub.watch(ref) as topic:
            try:
                async with contextlib.aclosing(self._payments(request, ref, topic)) as messages:
                    async for message in messages:
                        yield message
                        told = True
            except SessionDeleted:
                # Only who never saw the session is told that there is none.
                if not told:
                    raise
                yield payment_pb2.WatchPaymentResponse(
                    version=topic.version,
                    resume_token=hub.token(topic.version) if topic.version else b"",
                    deleted=True,
                )

    async def _payments(
        self, request: payment_pb2.WatchPaymentRequest, ref: Ref, topic: Topic
    ) -> AsyncGenerator[bytes | Message, None]:
        """Yield the messages of WatchPayment. Raises: SessionDeleted, at whatever point."""
        hub, wanted = self._engine.hub, request.payment_id
        snapshot = await self._engine.session(request.session_id)
        seen = self._resume_after(request, snapshot)
        session: Session = snapshot.state
        payment = await self._payment(session, wanted)
        if seen is None:
            yield hub.payment_message(snapshot.version, session.payment, payment)
        else:
            shown = None
            async for version, message, shown_payment in self._payments_between(
                ref, seen, snapshot.version, wanted
            ):
                yield message
                shown = shown_payment
                seen = version
                if _over(request, shown):
                    return
            # Who comes late to a settled payment is told so, even if nothing changed since.
            if shown is None and request.end_when_settled and _over(request, payment):
                yield hub.payment_message(snapshot.version, session.payment, payment)
        if _over(request, payment):
            return
        seen = snapshot.version
        topic.begin(snapshot.version, snapshot.state)
        while True:
            if not await hub.news(topic, seen):
                yield payment_pb2.WatchPaymentResponse(
                    version=seen, resume_token=hub.token(seen), heartbeat=True
                )
                continue
            entry = topic.after(seen)
            if entry is None:
                upto = topic.version
                async for version, message, shown in self._payments_between(
                    ref, seen, upto, wanted
                ):
                    yield message
                    seen = version
                    if _over(request, shown):
                        return
                seen = max(seen, upto)
                continue
            seen = entry.version
            if entry.change == DELETED:
                raise SessionDeleted(f"session {ref.id!r} was deleted")
            if entry.change in changes.MONEY_CHANGES:
                shown = changes.shown_payment(entry.change, entry.event, entry.state)
                if not wanted or (shown is not None and shown.payment_id == wanted):
                    yield entry.payment_message(hub)
                    if _over(request, shown):
                        return

    async def WatchEvents(
        self, request: session_pb2.WatchEventsRequest, call: Call
    ) -> AsyncIterator[bytes | Message]:
        """Stream the events of all sessions and menus, at least once, in order within each."""
        hub, reads = self._engine.hub, self._engine.reads
        numbers = {eventlog.change_number(_known(name)) for name in request.changes}
        ids = frozenset(request.session_ids)
        with hub.watch_everything() as topic:
            cursor = await self._feed_cursor(request)
            while True:
                seen = topic.version
                rows = await reads.feed(cursor, PAGE)
                if not rows:
                    if not await hub.news(topic, seen):
                        yield session_pb2.WatchEventsResponse(resume_token=hub.epoch + cursor)
                    continue
                cursor = rows[-1].cursor
                response = session_pb2.WatchEventsResponse(resume_token=hub.epoch + cursor)
                for row in rows:
                    if numbers and row.change not in numbers:
                        continue
                    if ids and (row.ref.kind is not Kind.SESSION or row.ref.id not in ids):
                        continue
                    response.events.append(_sourced(row))
                if response.events:
                    yield response

    async def _feed_cursor(self, request: session_pb2.WatchEventsRequest) -> bytes:
        token = request.resume_token
        if token and request.from_beginning:
            raise _one_of("from_beginning", "resume_token")
        if token:
            if token[:EPOCH_BYTES] != self._engine.hub.epoch:
                raise VersionOutOfRange("the resume token is of another history of this store")
            return token[EPOCH_BYTES:]
        return b"" if request.from_beginning else await self._engine.reads.feed_end()

    def _resume_after(
        self,
        request: session_pb2.WatchSessionRequest | payment_pb2.WatchPaymentRequest,
        snapshot: Snapshot,
    ) -> int | None:
        """Find where to resume; None to begin with what is."""
        metadata = {"oldest": "1", "newest": str(snapshot.version)}
        if request.resume_token:
            if request.HasField("after_version"):
                raise _one_of("after_version", "resume_token")
            epoch, rest = request.resume_token[:EPOCH_BYTES], request.resume_token[EPOCH_BYTES:]
            version = _read_varint(rest)
            if epoch != self._engine.hub.epoch or version is None:
                raise VersionOutOfRange(
                    "the resume token is of another history of this store", metadata=metadata
                )
        elif request.HasField("after_version"):
            version = request.after_version
        else:
            return None
        if version > snapshot.version:
            raise VersionOutOfRange(f"version {version} is ahead of the log", metadata=metadata)
        return version

    async def _events_after(
        self, ref: Ref, topic: Topic, seen: int
    ) -> AsyncIterator[tuple[int, bytes, bool]]:
        """Yield messages for everything after `seen`: (version, message, the session is gone)."""
        hub = self._engine.hub
        first = topic.after(seen)
        if first is not None:
            entries = [e for e in topic.ring if e.version >= first.version]
            last = entries[-1]
            message = hub.session_message(last.version, tuple(e.event_bytes for e in entries))
            yield last.version, message, last.change == DELETED
            return
        while seen < topic.version:
            rows = await self._engine.reads.events(ref, seen, PAGE)
            if not rows:
                raise VersionOutOfRange(f"what follows version {seen} is no longer in the log")
            seen = rows[-1].version
            deleted = rows[-1].change == eventlog.change_number(DELETED)
            batch = tuple(eventlog.decode_bytes(row) for row in rows)
            yield seen, hub.session_message(seen, batch), deleted

    async def _payments_between(
        self, ref: Ref, after: int, upto: int, wanted: str
    ) -> AsyncIterator[tuple[int, bytes, Payment | None]]:
        """Fold the log to show payment and state at each version that changed them.

        Raises: SessionDeleted.
        """
        if after >= upto:
            return
        start = await self._engine.read(ref, at_version=after) if after else None
        state: Session | None = None if start is None else start.state
        while after < upto:
            rows = await self._engine.reads.events(ref, after, PAGE)
            if not rows:
                return
            for row in rows:
                event = eventlog.decode(row)
                change = event.WhichOneof("change") or ""
                if change == DELETED:
                    raise SessionDeleted(f"session {ref.id!r} was deleted")
                state = evolve_session(state, event)
                after = row.version
                if change not in changes.MONEY_CHANGES:
                    continue
                shown = changes.shown_payment(change, event, state)
                if wanted and (shown is None or shown.payment_id != wanted):
                    continue
                message = self._engine.hub.payment_message(after, state.payment, shown)
                yield after, message, shown

    async def _payment(self, session: Session, wanted: str) -> Payment | None:
        newest = changes.newest_payment(session)
        if not wanted or (newest is not None and newest.payment_id == wanted):
            return newest
        where = RowFilter(ref=session_ref(session.session_id), keys=(wanted,))
        rows = await self._engine.reads.list_rows(Table.PAYMENTS, where, None, 1)
        if not rows:
            raise PaymentNotFound(f"session {session.session_id!r} has no payment {wanted!r}")
        return Payment.FromString(rows[0].body)

    def _snapshot(self, snapshot: Snapshot) -> session_pb2.WatchSessionResponse:
        return session_pb2.WatchSessionResponse(
            version=snapshot.version,
            resume_token=self._engine.hub.token(snapshot.version),
            snapshot=snapshot.state,
        )

    def _session_heartbeat(self, version: int) -> session_pb2.WatchSessionResponse:
        return session_pb2.WatchSessionResponse(
            version=version, resume_token=self._engine.hub.token(version), heartbeat=HEARTBEAT
        )

    def _end(self, version: int) -> session_pb2.WatchSessionResponse:
        return session_pb2.WatchSessionResponse(
            version=version,
            resume_token=self._engine.hub.token(version),
            end=session_pb2.WatchEnd(deleted=True),
        )


def _resumes(
    request: session_pb2.WatchSessionRequest | payment_pb2.WatchPaymentRequest,
) -> bool:
    return bool(request.resume_token) or request.HasField("after_version")


def _over(request: payment_pb2.WatchPaymentRequest, payment: Payment | None) -> bool:
    return request.end_when_settled and payment is not None and changes.is_settled(payment)


def _sourced(row: StoredEvent) -> session_pb2.SourcedEvent:
    sourced = session_pb2.SourcedEvent(event=eventlog.decode(row))
    if row.ref.kind is Kind.MENU:
        sourced.menu_id = row.ref.id
    else:
        sourced.session_id = row.ref.id
    return sourced


def _known(name: str) -> str:
    if name not in eventlog.change_numbers():
        raise InvalidField(
            f"changes: there is no change {name!r}",
            violations=[Violation("changes", "change.known", f"{name!r} is not a change")],
        )
    return name


def _one_of(first: str, second: str) -> InvalidField:
    text = f"{first} and {second} exclude one another"
    return InvalidField(text, violations=[Violation(first, "one_of", text)])


def _read_varint(encoded: bytes) -> int | None:
    value, shift = 0, 0
    for at, byte in enumerate(encoded):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value if at == len(encoded) - 1 else None
        shift += 7
    return None
