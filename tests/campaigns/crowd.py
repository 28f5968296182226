"""Guests who write through every server and never give up, and watchers who follow them.

What they were told is the history that the database is held against.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from tests.campaigns.fleet import Fleet, is_transient
from tests.campaigns.killing import KillFailure
from tests.campaigns.operations import Operation, operation_at

from maitred.v1 import menu_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Money
from maitred.v1.event_pb2 import Event

PATIENCE_S = 90.0
"""The longest that a request may stay unanswered, or a watch behind, once nothing is broken."""

RECENT_S = 0.05
PAUSE_S = 0.02
READS = 0.25
"""The share of writes that are looked at through another server."""


@dataclass(slots=True)
class Guest:
    """One session, what was asked of it and what was shown of it."""

    session_id: str
    operations: list[Operation] = field(default_factory=list)
    shown: list[Event] = field(default_factory=list)
    """Events that the watch delivered and that were not compared with the log yet."""
    seen: int = 0
    """The version up to which the watch delivered."""
    token: bytes = b""
    observed: int = 0
    """The highest version that any answer spoke of."""


@dataclass(slots=True)
class CrowdReport:
    """What guests did and were told."""

    acknowledged: int = 0
    unknown_resolved: int = 0
    """Writes that had been applied although the first answer was an error."""
    failed_over: int = 0
    """Requests that were sent again, to another server."""
    errors: Counter[str] = field(default_factory=Counter)
    """Answers that made them do so, by status."""
    reads: int = 0
    """Reads through another server just after a write; each must show it."""
    watched: int = 0
    fed: int = 0
    """Events that WatchEvents delivered."""
    resumed: int = 0
    """Watches that were taken up again, on another server."""
    duplicated: int = 0
    """Requests whose answer named another version than before."""


class Crowd:
    """Guests, a watcher for each, and one watcher of everything."""

    def __init__(self, fleet: Fleet, chance: random.Random, guests: int) -> None:
        self.report = CrowdReport()
        self.guests: list[Guest] = []
        self.served = [0.0] * len(fleet)
        """When each server acknowledged its last write."""
        self.fed: dict[str, int] = {}
        """The version of each session up to which WatchEvents delivered."""
        self._fleet = fleet
        self._random = chance
        self._size = guests
        self._asking = 0
        self._last_ack = 0.0
        self._open = asyncio.Event()
        self._people: list[asyncio.Task[None]] = []
        self._feed: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------- coming and going

    async def begin(self) -> None:
        """Put the menu and begin to watch everything."""
        menu = state_pb2.Menu(menu_id="default", currency="USD")
        menu.items.add(item_id="tea", name="Tea", price=Money(minor_units=100, currency="USD"))
        request = menu_pb2.PutMenuRequest(menu=menu)
        await self._fleet.call(0, "MenuService/PutMenu", request, menu_pb2.PutMenuResponse)
        self._feed = asyncio.create_task(self._watch_everything())

    async def seat(self) -> None:
        """Let everybody go and seat new guests, who are not let loose before `resume`."""
        await self._leave()
        first = len(self.guests)
        self.guests += [Guest(f"guest-{first + at}") for at in range(self._size)]
        for guest in self.present:
            request = session_pb2.CreateSessionRequest(
                session_id=guest.session_id,
                opening_balance=Money(minor_units=10**12, currency="USD"),
            )
            method = "SessionService/CreateSession"
            await self._fleet.call(0, method, request, session_pb2.CreateSessionResponse)
        for number, guest in enumerate(self.present):
            self._people.append(asyncio.create_task(self._client(guest)))
            self._people.append(asyncio.create_task(self._watcher(guest, number)))

    @property
    def present(self) -> list[Guest]:
        """The guests who are here now."""
        return self.guests[-self._size :]

    async def end(self) -> None:
        """Let everybody go."""
        if self._feed is not None:
            self._people.append(self._feed)
        await self._leave()

    async def _leave(self) -> None:
        people, self._people = self._people, []
        for each in people:
            each.cancel()
        await asyncio.gather(*people, return_exceptions=True)

    def resume(self) -> None:
        """Let guests ask."""
        self._open.set()

    async def pause(self) -> None:
        """Wait until every request is answered, and let nobody ask again."""
        self._open.clear()
        await self.until(lambda: not self._asking, "requests are not answered")

    async def trial(self) -> None:
        """Wait for a moment with a write acknowledged just now and another one under way."""
        await self.until(
            lambda: time.monotonic() - self._last_ack < RECENT_S and self._asking > 0,
            "nothing is acknowledged",
        )

    async def until(self, done: Callable[[], bool], problem: str) -> None:
        """Wait for something of the crowd's doing. Raises: KillFailure."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not done():
            for each in (*self._people, *([self._feed] if self._feed else ())):
                if each.done() and not each.cancelled():
                    await each
            if time.monotonic() > give_up_at:
                logs = "\n".join(self._fleet.log(number) for number in range(len(self._fleet)))
                raise KillFailure(f"{problem} after {PATIENCE_S:.0f} s\n{logs}")
            await asyncio.sleep(0.002)

    # ---------------------------------------------------------------- writing

    async def _client(self, guest: Guest) -> None:
        while True:
            await self._open.wait()
            operation = operation_at(guest.session_id, len(guest.operations))
            guest.operations.append(operation)
            self._asking += 1
            number = self._random.randrange(len(self._fleet))
            await self._acknowledge(guest, operation, number)
            if self._random.random() < READS:
                await self._read(guest, operation, (number + 1) % len(self._fleet))
            self._asking -= 1
            await asyncio.sleep(self._random.uniform(0, PAUSE_S))

    async def _acknowledge(self, guest: Guest, operation: Operation, number: int) -> None:
        """Send to one server after the other until answered, always under the same request id."""
        report, tries, before = self.report, 0, guest.observed
        while True:
            try:
                reply = await self._fleet.call(
                    number, operation.method, operation.request, operation.response_type
                )
            except grpc.aio.AioRpcError as error:
                if not is_transient(error):
                    raise self._unforeseen(operation.method, number, error) from error
                report.errors[error.code().name] += 1
                report.failed_over += 1
                number = (number + 1) % len(self._fleet)
                tries += 1
                await asyncio.sleep(0.01)
                continue
            version: int = reply.event.version  # type: ignore[attr-defined]  # every mutation has one
            replayed: bool = reply.replayed  # type: ignore[attr-defined]  # as above
            if replayed and not tries:
                report.duplicated += 1
                raise KillFailure(f"{operation.method}: replayed, and asked for the first time")
            if version <= before:
                raise KillFailure(
                    f"{guest.session_id}: version {version} is given out, "
                    f"and {before} was seen before it was asked for"
                )
            operation.version = version
            guest.observed = max(guest.observed, version)
            report.acknowledged += 1
            report.unknown_resolved += replayed
            self._last_ack = self.served[number] = time.monotonic()
            return

    async def _read(self, guest: Guest, operation: Operation, number: int) -> None:
        """See through another server what was acknowledged by one."""
        request = session_pb2.GetSessionRequest(session_id=guest.session_id)
        method, kind = "SessionService/GetSession", session_pb2.GetSessionResponse
        try:
            reply = await self._fleet.call(number, method, request, kind)
        except grpc.aio.AioRpcError as error:
            if not is_transient(error):
                raise self._unforeseen(method, number, error) from error
            return
        if reply.session.version < operation.version:
            raise KillFailure(
                f"{guest.session_id}: version {operation.version} was acknowledged, and server "
                f"{number} shows {reply.session.version} afterwards"
            )
        guest.observed = max(guest.observed, reply.session.version)
        self.report.reads += 1

    # ---------------------------------------------------------------- watching

    async def _watcher(self, guest: Guest, number: int) -> None:
        """Follow a session from its beginning, from one server to the next."""
        while True:
            request = session_pb2.WatchSessionRequest(session_id=guest.session_id)
            if guest.token:
                request.resume_token = guest.token
            else:
                request.after_version = 0
            number = (number + 1) % len(self._fleet)
            enough = guest.seen + self._random.randrange(20, 400)
            method, kind = "SessionService/WatchSession", session_pb2.WatchSessionResponse
            try:
                async for message in self._fleet.stream(number, method, request, kind):
                    self._take(guest, message)
                    if guest.seen > enough:
                        break
            except grpc.aio.AioRpcError as error:
                if not is_transient(error):
                    raise self._unforeseen(
                        f"{method} of {guest.session_id}", number, error
                    ) from error
                await asyncio.sleep(0.02)
            self.report.resumed += 1

    def _unforeseen(self, what: str, number: int, error: grpc.aio.AioRpcError) -> KillFailure:
        return KillFailure(
            f"server {number}, {what}: {error.code()} {error.details()}\n{self._fleet.log(number)}"
        )

    def _take(self, guest: Guest, message: session_pb2.WatchSessionResponse) -> None:
        guest.token = message.resume_token
        for event in message.events.events:
            if event.version != guest.seen + 1:
                raise KillFailure(
                    f"{guest.session_id}: the watch had delivered version {guest.seen}, "
                    f"and then {event.version}"
                )
            guest.seen = event.version
            guest.observed = max(guest.observed, event.version)
            guest.shown.append(event)
            self.report.watched += 1

    async def _watch_everything(self) -> None:
        """Follow all sessions from the beginning: at least once, in order within each."""
        token, number = b"", 0
        method, kind = "SessionService/WatchEvents", session_pb2.WatchEventsResponse
        while True:
            request = session_pb2.WatchEventsRequest(resume_token=token, from_beginning=not token)
            try:
                async for message in self._fleet.stream(number, method, request, kind):
                    token = message.resume_token
                    for sourced in message.events:
                        self._take_fed(sourced)
            except grpc.aio.AioRpcError as error:
                if not is_transient(error):
                    raise self._unforeseen(method, number, error) from error
                await asyncio.sleep(0.02)
            number = (number + 1) % len(self._fleet)
            self.report.resumed += 1

    def _take_fed(self, sourced: session_pb2.SourcedEvent) -> None:
        if not sourced.session_id:
            return
        last = self.fed.get(sourced.session_id, 0)
        if sourced.event.version > last + 1:
            raise KillFailure(
                f"{sourced.session_id}: WatchEvents had delivered version {last}, "
                f"and then {sourced.event.version}"
            )
        self.fed[sourced.session_id] = max(last, sourced.event.version)
        self.report.fed += 1
