"""A kind of aggregate that is added in three files does all that the server promises of a kind.

The files: `voucher.proto` (the contract), `voucher.py` (the kind), `vouchers.py` (its service).
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.kinds.conftest import House
from tests.kinds.voucher import KIND, RECEIPTS, VOUCHER_ROWS, pb

from maitred.server.domain import sessions
from maitred.server.engine.call import Actor, Call
from maitred.server.engine.command import Command
from maitred.server.engine.copying import Copy
from maitred.server.engine.engine import Engine
from maitred.server.engine.sweeper import Sweeper
from maitred.server.errors import (
    ConcurrentModification,
    InvalidSession,
    RequestIdReused,
    RequestTooLarge,
    SessionClosed,
    SessionDeleted,
    SessionExpired,
    Unsupported,
)
from maitred.server.kinds.session import session_ref
from maitred.server.services.watching.everything import EventsStream
from maitred.server.services.watching.loop import deliver
from maitred.server.stores import create_store
from maitred.server.stores.base import RowFilter, StoreError
from maitred.server.testing.faulty import Fault, FaultyStore
from maitred.v1.common_pb2 import Money, Role
from maitred.v1.session_pb2 import CreateSessionRequest, WatchEventsRequest
from maitred.v1.state_pb2 import Session

DEFAULTS = sessions.Defaults("default", 1000, "USD", 3600)
WORTH = Money(minor_units=250, currency="USD")
TRANSIENT = (Fault.CONFLICT, Fault.UNKNOWN_APPLIED, Fault.UNKNOWN_ABSENT, Fault.APPLIED_LATE)
REFUSED = (Fault.FULL, Fault.UNAVAILABLE)


def call(method: str) -> Call:
    """A call of an agent's."""
    return Call(actor=Actor("tester", Role.ROLE_AGENT), method=f"toy.v1.VoucherService/{method}")


async def open_session(engine: Engine, session_id: str = "s1") -> None:
    """Create a session with a balance of 1000."""
    request = CreateSessionRequest(session_id=session_id)
    command = Command(
        session_ref(session_id),
        lambda state, _now: sessions.create(state, request, session_id, DEFAULTS),
        request,
        create=True,
    )
    await engine.execute(command, call("CreateSession"))


async def create(house: House, voucher_id: str = "v1", **fields: Any) -> Any:
    """Make a voucher worth 250."""
    given = {"worth": WORTH, "valid_seconds": 600, "holder": "Ada", "request_id": voucher_id}
    request = pb.CreateVoucherRequest(voucher_id=voucher_id, **given | fields)
    reply = await house.service.CreateVoucher(request, call("CreateVoucher"))
    return pb.RedeemVoucherResponse.FromString(reply)


async def redeem(house: House, voucher_id: str = "v1", request_id: str = "r", **more: Any) -> Any:
    """Redeem a voucher on the session."""
    request = pb.RedeemVoucherRequest(
        voucher_id=voucher_id, request_id=request_id, **{"session_id": "s1"} | more
    )
    reply = await house.service.RedeemVoucher(request, call("RedeemVoucher"))
    return pb.RedeemVoucherResponse.FromString(reply)


async def delete(house: House, voucher_id: str = "v1") -> Any:
    """Erase a voucher."""
    request = pb.DeleteVoucherRequest(voucher_id=voucher_id, request_id="bye")
    reply = await house.service.DeleteVoucher(request, call("DeleteVoucher"))
    return pb.RedeemVoucherResponse.FromString(reply)


async def balance(engine: Engine, session_id: str = "s1") -> int:
    """Read the balance of a session."""
    session: Session = (await engine.reader.require(session_ref(session_id))).state
    return session.payment.balance.minor_units


async def voucher(house: House, voucher_id: str = "v1") -> Any:
    """Read a voucher."""
    request = pb.GetVoucherRequest(voucher_id=voucher_id)
    return pb.Voucher.FromString(await house.service.GetVoucher(request, call("GetVoucher")))


async def listed(house: House, **where: Any) -> list[str]:
    """List the ids of vouchers, newest first."""
    request = pb.ListVouchersRequest(**where)
    reply = await house.service.ListVouchers(request, call("ListVouchers"))
    return [each.voucher_id for each in pb.ListVouchersResponse.FromString(reply).vouchers]


async def test_it_is_created_once_and_read(house: House) -> None:
    """A retry is a replay; the same id with another request is refused."""
    made = await create(house)
    again = await create(house)
    with pytest.raises(RequestIdReused):
        await create(house, holder="Bob")

    assert (made.voucher.version, made.replayed) == (1, False)
    assert (again.event, again.replayed) == (made.event, True)
    assert made.event.voucher_created.voucher.holder == "Ada"
    assert await voucher(house) == made.voucher
    with pytest.raises(InvalidSession, match="there is no voucher 'v9'"):
        await voucher(house, "v9")


async def test_one_that_is_too_large_is_refused(house: House) -> None:
    """The kind says how large its state may grow, and what the refusal is."""
    with pytest.raises(RequestTooLarge, match="the voucher takes"):
        await create(house, holder="A" * 4000)


async def test_it_is_listed_by_its_columns(house: House) -> None:
    """By status and by owner, newest first; one that has expired is never listed as active."""
    await open_session(house.engine)
    for number in range(3):
        await create(house, f"v{number}", valid_seconds=60 * (number + 1))
    await redeem(house, "v1")

    assert await listed(house) == ["v2", "v1", "v0"]
    assert await listed(house, status=pb.VOUCHER_STATUS_ACTIVE) == ["v2", "v0"]
    assert await listed(house, session_id="s1") == ["v1"]
    house.clock.advance(90)
    assert await listed(house, status=pb.VOUCHER_STATUS_ACTIVE) == ["v2"]
    assert await listed(house, status=pb.VOUCHER_STATUS_EXPIRED) == ["v0"]


async def test_redeeming_changes_both_or_neither(house: House) -> None:
    """Voucher and session change in one commit; a retry is a replay that shows both as they are."""
    await open_session(house.engine)
    await create(house)
    done = await redeem(house)
    again = await redeem(house)
    with pytest.raises(SessionClosed, match="was redeemed"):
        await redeem(house, request_id="another")

    assert done.voucher.session_id == done.session.session_id == "s1"
    assert done.session.payment.balance.minor_units == await balance(house.engine) == 1250
    assert (again.replayed, again.event) == (True, done.event)
    assert again.session == done.session
    assert len(house.store.submitted[-1].appends) == 2


async def test_a_precondition_or_a_refusal_of_either_changes_nothing(house: House) -> None:
    """Absent, expired, closed or at another version: neither log grows."""
    await create(house)
    with pytest.raises(InvalidSession, match="there is no session 's1'"):
        await redeem(house)
    await open_session(house.engine)
    with pytest.raises(ConcurrentModification):
        await redeem(house, expected_version=7)
    with pytest.raises(InvalidSession, match="there is no voucher"):
        await redeem(house, "v9")
    house.clock.advance(700)
    with pytest.raises(SessionExpired, match="voucher 'v1' has expired"):
        await redeem(house)

    assert (await voucher(house)).status == pb.VOUCHER_STATUS_EXPIRED
    assert await balance(house.engine) == 1000


async def test_of_many_who_redeem_at_once_one_does(house: House) -> None:
    """Crossing commands on several aggregates neither deadlock nor lose a change."""
    for number in range(4):
        await create(house, f"v{number}")
        await open_session(house.engine, f"s{number}")
    tries = [
        redeem(house, f"v{voucher}", f"r{session}", session_id=f"s{session}")
        for voucher in range(4)
        for session in range(4)
    ]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    balances = [await balance(house.engine, f"s{number}") for number in range(4)]

    assert sum(not isinstance(each, BaseException) for each in outcomes) == 4
    assert all(isinstance(each, SessionClosed) for each in outcomes if isinstance(each, Exception))
    assert sum(balances) == 4 * 1250
    assert len(house.engine.locks) == 0


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_whatever_became_of_the_commit_both_change_once(house: House, fault: Fault) -> None:
    """A conflict is decided anew; an unknown outcome is found out by the very same commit."""
    await open_session(house.engine)
    await create(house)
    house.store.fail_writes(fault)
    done = await redeem(house)
    await house.store.release()

    assert done.voucher.status == pb.VOUCHER_STATUS_REDEEMED
    assert (await voucher(house)).version == 2
    assert await balance(house.engine) == 1250
    for ref in (KIND.ref("v1"), session_ref("s1")):
        assert (await house.engine.verify(ref)).valid


@pytest.mark.parametrize("fault", REFUSED)
async def test_a_commit_that_failed_leaves_both_and_a_retry_succeeds(
    house: House, fault: Fault
) -> None:
    """Neither is changed, no lock is left, and the request id still tells one request."""
    await open_session(house.engine)
    await create(house)
    house.store.fail_writes(fault)
    with pytest.raises(StoreError):
        await redeem(house)

    assert (await voucher(house)).version == 1
    assert await balance(house.engine) == 1000
    assert len(house.engine.locks) == 0
    assert not (await redeem(house)).replayed


async def test_another_servers_commit_in_between_is_seen(
    url: str, open_house: Callable[..., Any]
) -> None:
    """Two servers on one store: one redeems it, the other refuses it, whatever it remembers."""
    if url.startswith(("memory", "sqlite")):
        pytest.skip("only one server can open this store")
    first = await open_house(url)
    second = await open_house(url)
    await open_session(first.engine)
    await create(first)
    await voucher(second)
    await redeem(first)
    with pytest.raises(SessionClosed, match="was redeemed"):
        await redeem(second, request_id="other")

    assert (await redeem(second)).replayed
    assert await balance(second.engine) == 1250


async def test_it_is_watched_to_its_end(house: House) -> None:
    """A snapshot, each version in order, the end; all of it in the kind's own messages."""
    await open_session(house.engine)
    await create(house)
    request = pb.WatchVoucherRequest(voucher_id="v1")
    async with aclosing(house.service.WatchVoucher(request, call("WatchVoucher"))) as stream:
        first = pb.WatchVoucherResponse.FromString(await anext(stream))
        await redeem(house)
        second = pb.WatchVoucherResponse.FromString(await anext(stream))
        await delete(house)
        rest = [pb.WatchVoucherResponse.FromString(each) async for each in stream]
    request = pb.WatchVoucherRequest(voucher_id="v1", resume_token=second.resume_token)
    async with aclosing(house.service.WatchVoucher(request, call("WatchVoucher"))) as stream:
        resumed = [pb.WatchVoucherResponse.FromString(each) async for each in stream]

    assert first.snapshot.holder == "Ada"
    assert second.events.events[0].voucher_redeemed.voucher.session_id == "s1"
    assert rest[-1].end.deleted
    assert resumed[-1].end.deleted


async def test_watch_events_names_it_as_its_source(house: House) -> None:
    """Events of the kind are in the feed of all, with personal fields, under their own source."""
    await open_session(house.engine)
    await create(house)
    await redeem(house)
    stream = EventsStream(house.engine, WatchEventsRequest(from_beginning=True))
    found: list[Any] = []
    async with aclosing(deliver(house.engine.hub, stream)) as messages:
        async for message in messages:
            found += pb.WatchEventsResponse.FromString(message).events
            if len(found) >= 4:
                break

    sources = [(each.WhichOneof("source"), each.event.version) for each in found]
    assert sorted(sources) == [
        ("session_id", 1),
        ("session_id", 2),
        ("voucher_id", 1),
        ("voucher_id", 2),
    ]
    created = next(each.event for each in found if each.event.HasField("voucher_created"))
    assert created.voucher_created.voucher.holder == "Ada"


async def test_time_ends_it(house: House) -> None:
    """The sweeper finds it when it is due, and a read that is earlier expires it."""
    await create(house)
    await create(house, "v2", valid_seconds=60)
    house.clock.advance(90)
    assert (await voucher(house, "v2")).status == pb.VOUCHER_STATUS_EXPIRED
    house.clock.advance(600)
    swept = await Sweeper(house.engine).sweep(10)

    assert swept.expired == 1
    assert (await voucher(house)).status == pb.VOUCHER_STATUS_EXPIRED


async def test_it_is_erased_but_for_what_the_kind_keeps(house: House) -> None:
    """Log and state go; its rows and claims that the kind names stay, and no id comes back."""
    await open_session(house.engine)
    await create(house)
    await redeem(house)
    await delete(house)
    with pytest.raises(SessionDeleted, match="voucher 'v1' was deleted"):
        await voucher(house)
    with pytest.raises(SessionDeleted):
        await create(house, request_id="anew")
    rows = await house.store.list_rows(VOUCHER_ROWS, RowFilter(), None, 9)
    events = await house.store.events(KIND.ref("v1"), 0, 9)

    assert [row.key for row in rows] == ["v1"]
    assert await house.store.claim(RECEIPTS, "v1") is not None
    assert [event.version for event in events] == [3]
    assert await listed(house) == []


async def test_it_is_audited_and_copied(house: House) -> None:
    """The log explains the state; a copy holds the same, and says so."""
    await open_session(house.engine)
    await create(house)
    await create(house, "v2")
    await redeem(house)
    assert (await house.engine.verify(KIND.ref("v1"))).valid
    target = create_store("memory://")
    info = await target.open()
    assert house.engine.info is not None
    work = Copy(
        house.store,
        target,
        house.engine.kinds,
        lambda _what, _done, _total: None,
        secrets=(house.engine.info.secret, info.secret),
        inbound_expires_ns=0,
    )
    copied = await work.run()
    rows = await target.list_rows(VOUCHER_ROWS, RowFilter(), None, 9)
    await target.close()

    assert copied.problems == ()
    assert copied.aggregates == 3
    assert [row.key for row in rows] == ["v1"]


class Single(FaultyStore):
    """A store that commits one aggregate at a time."""

    async def open(self) -> Any:
        """Say so."""
        return (await super().open())._replace(cross_aggregate=False)


async def test_a_store_that_cannot_is_refused_at_start() -> None:
    """What a service needs is said when the server starts, and not by its first call."""
    house = House("memory://")
    house.engine.store = Single(create_store("memory://"))
    with pytest.raises(Unsupported, match="VoucherService must commit several aggregates at once"):
        await house.engine.start()


def test_the_files_are_those_that_contributing_names() -> None:
    """Three of them, one for each step of the list; nothing of the server knows of vouchers."""
    root = Path(__file__).parents[2]
    section = (root / "CONTRIBUTING.md").read_text().partition("## Add a kind of aggregate\n")[2]
    steps = re.findall(r"^\d\. `([^`]+)`", section.partition("\n## ")[0], flags=re.MULTILINE)
    tests = {"conftest.py", "test_voucher.py"}
    files = {path.name for path in Path(__file__).parent.glob("*.*")} - tests
    aware = [
        path
        for path in (root / "server").rglob("*")
        if path.suffix in (".py", ".sql", ".lua") and "voucher" in path.read_text().lower()
    ]

    assert steps == ["protos/maitred/v1/<noun>.proto", "kinds/<noun>.py", "services/<noun>.py"]
    assert files == {"voucher.proto", "voucher.py", "vouchers.py"}
    assert aware == []


CHILD = """
import asyncio, sys
from tests.kinds.conftest import House
from tests.kinds.test_voucher import create, open_session, redeem
from maitred.server.telemetry import logging

logging.configure(level="error")

async def main(url):
    house = House(url)
    await house.engine.start()
    await open_session(house.engine)
    for number in range(10_000):
        await create(house, f"v{number}", request_id=f"c{number}")
        await redeem(house, f"v{number}", f"r{number}")
        print(number, flush=True)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("kills", range(3))
async def test_a_kill_in_between_leaves_both_or_neither(
    url: str, open_house: Callable[..., Any], kills: int
) -> None:
    """However far it came: the balance is what the redeemed vouchers are worth, and no less."""
    if url.startswith("memory"):
        pytest.skip("what is in memory goes with the process")
    root = Path(__file__).parents[2]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        url,
        stdout=asyncio.subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    acknowledged = -1
    try:
        for _ in range(5 + 10 * kills):
            acknowledged = int(await child.stdout.readline())
    finally:
        child.kill()
        await child.wait()
    house: House = await open_house(url)
    redeemed = await listed(house, page_size=1000, status=pb.VOUCHER_STATUS_REDEEMED)

    assert set(redeemed) >= {f"v{number}" for number in range(acknowledged + 1)}
    assert await balance(house.engine) == 1000 + 250 * len(redeemed)
    assert (await house.engine.verify(session_ref("s1"))).valid
