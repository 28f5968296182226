"""The server, over the wire, is what a much simpler telling of its rules says it is.

`HYPOTHESIS_PROFILE=ci` looks four times as long as the default does, `campaign` a hundred times.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from maitred.server.engine.clock import ManualClock
from maitred.server.payments import simulated
from maitred.v1 import (
    admin_pb2,
    conversation_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
    state_pb2,
)
from tests.support.bar import ITEMS, MODIFIERS, SOLD_OUT, add, open_bar, turn, usd
from tests.support.model import Model, Refused
from tests.support.requests import in_cash
from tests.support.wire import STATUS_OF, Failure, wired

T = TypeVar("T")

NAMES = [*ITEMS, "NEGRONI", " small  beer ", "Olives", SOLD_OUT, "unicorn"]
MEANT = {"NEGRONI": "negroni", " small  beer ": "beer", "Olives": "olives"}
REASONS = st.sampled_from(["", "on the house"])
QUANTITIES = st.none() | st.integers(1, 3)


def mostly(wanted: Callable[[SessionMachine], bool]) -> Callable[[Callable[..., None]], Any]:
    """Do something mostly when it leads somewhere, and now and then to see it refused."""
    return precondition(lambda self: self.requests % 6 == 0 or wanted(self))


class House:
    """A server on a store, a clock that stands still, and a loop to talk to it from."""

    def __init__(self, data: str, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.folder = folder
        self._stack = AsyncExitStack()
        self.server, self.wire = self.run(
            self._stack.enter_async_context(
                wired(data=data, clock=self.clock, simulated_dir=str(folder), heartbeat_s=3600.0)
            )
        )
        self.run(self._quiet())

    async def _quiet(self) -> None:
        """Stop what runs by itself: only rules shall act, so that a failure can be repeated."""
        await self.server.parts.sweeper.stop()
        await self.server.parts.gateways.primary.provider.aclose()
        await self.server.parts.coordinator._poller.stop()
        await open_bar(self.wire)

    def run(self, work: Awaitable[T]) -> T:
        """Run the loop until this is done."""
        return self.loop.run_until_complete(_within(work))

    def close(self) -> None:
        """Stop the server."""
        self.run(self._stack.aclose())
        self.loop.close()


async def _within(work: Awaitable[T]) -> T:
    async with asyncio.timeout(30):
        return await work


class SessionMachine(RuleBasedStateMachine):
    """Does the same to a session and to its model, and looks for a difference."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house
        self.requests = 0
        self.answered: list[tuple[str, Message, bytes]] = []

    def call(self, rpc: str, request: Message) -> Any:
        """Make a call."""
        return self.house.run(self.house.wire.outcome(rpc, request))

    def do(self, rpc: str, request: Any, model: Callable[[], None], *, check: bool = False) -> None:
        """Do something to both; with `check` at the version that the model is at."""
        self.requests += 1
        request.session_id = self.id
        request.request_id = f"r{self.requests}"
        if check and not self.model.overdue():
            request.expected_version = self.model.version
            request.expected_payment_version = self.model.payment_version
            request.expected_reset_count = self.model.resets
        before = self.model.version
        refusal = ""
        try:
            model()
            if self.model.version == before:
                # What changes nothing is remembered, under its request id.
                self.model.event()
        except Refused as refused:
            refusal = str(refused)
        outcome = self.call(rpc, request)
        if refusal:
            assert isinstance(outcome, Failure), f"{rpc} should be refused: {refusal}"
            assert (outcome.reason, outcome.status) == (refusal, STATUS_OF[refusal])
        else:
            assert not isinstance(outcome, Failure), outcome
            assert not outcome.replayed
            assert before < outcome.event.version <= self.model.version
            self.answered.append((rpc, request, _bytes_of(outcome.event)))
        self._learn()

    def _learn(self) -> None:
        """Have the provider asked, as it is by itself, so that no work is left under way."""
        if self.model.pay is not None and self.model.pay.link:
            checked = self.call(
                "PaymentService/CheckPayment",
                payment_pb2.CheckPaymentRequest(
                    session_id=self.id, payment_id=self._newest_payment().payment_id
                ),
            )
            assert not isinstance(checked, Failure), checked
            self.model.news()

    def _newest_payment(self) -> state_pb2.Payment:
        """The payment that was made last, of whichever visit."""
        request = payment_pb2.ListPaymentsRequest(session_id=self.id, page_size=1)
        found: state_pb2.Payment = self.call("PaymentService/ListPayments", request).payments[0]
        return found

    @initialize(
        opening=st.sampled_from([100_000, 7_000]),
        limit=st.booleans(),
        idle=st.sampled_from([600, 3600]),
    )
    def create(self, opening: int, limit: bool, idle: int) -> None:
        """Create the session."""
        self.id = f"guest-{uuid.uuid4().hex}"
        self.seen: dict[int, bytes] = {}
        self.answered.clear()
        request = session_pb2.CreateSessionRequest(
            session_id=self.id,
            opening_balance=usd(opening),
            idle_seconds=idle,
            balance_policy=(
                state_pb2.BALANCE_POLICY_LIMIT if limit else state_pb2.BALANCE_POLICY_BUDGET
            ),
        )
        self.model = Model(self.house.clock.now_ns, opening, limit, idle)
        reply = self.call("SessionService/CreateSession", request)
        again = self.call("SessionService/CreateSession", request)

        assert not reply.replayed
        assert again.replayed
        assert again.event == reply.event

    @precondition(lambda self: self.model.status != "ACTIVE")
    @rule(limit=st.booleans())
    def next_guest(self, limit: bool) -> None:
        """Go on with another session when this one has ended."""
        self.finish()
        self.create(100_000, limit, 3600)

    @rule(
        items=st.lists(
            st.tuples(
                st.sampled_from(list(MEANT)),
                QUANTITIES,
                st.lists(st.sampled_from(["rocks", "DOUBLE"]), max_size=2),
            ),
            min_size=1,
            max_size=3,
        ),
        place=st.booleans(),
        check=st.booleans(),
    )
    def order_round(
        self, items: list[tuple[str, int, list[str]]], place: bool, check: bool
    ) -> None:
        """Add lines by their names, and perhaps place them."""
        for item, quantity, modifiers in items:
            self.add_item(item, quantity, modifiers, check)
        if place:
            self.place_order(check)

    def add_item(self, item: str, quantity: int | None, modifiers: list[str], check: bool) -> None:
        """Add a line, by id or by name, with modifiers."""
        named = [name.lower() if name == "DOUBLE" else name for name in modifiers]
        self.do(
            "OrderService/AddItem",
            add(self.id, item, quantity=quantity, modifiers=modifiers),
            lambda: self.model.add(MEANT.get(item, item), quantity or 1, named),
            check=check,
        )

    @mostly(lambda self: bool(self.model.order))
    @rule(back=st.integers(0, 3), quantity=QUANTITIES, check=st.booleans())
    def remove_item(self, back: int, quantity: int | None, check: bool) -> None:
        """Take a line, or a part of it, off the open order."""
        number = max(1, self.model.last_line - back)
        self.do(
            "OrderService/RemoveItem",
            order_pb2.RemoveItemRequest(line_number=number, quantity=quantity),
            lambda: self.model.remove(number, quantity),
            check=check,
        )

    @mostly(lambda self: len(self.model.order) > 1)
    @rule()
    def clear_order(self) -> None:
        """Empty the open order."""
        self.do("OrderService/ClearOrder", order_pb2.ClearOrderRequest(), self.model.clear)

    @mostly(lambda self: bool(self.model.order))
    @rule(check=st.booleans())
    def place_order(self, check: bool) -> None:
        """Place the open order."""
        request = order_pb2.PlaceOrderRequest()
        self.do("OrderService/PlaceOrder", request, self.model.place, check=check)

    @mostly(lambda self: bool(self.model.placed))
    @rule(back=st.integers(0, 1), line=st.integers(0, 4), quantity=QUANTITIES)
    def void_line(self, back: int, line: int, quantity: int | None) -> None:
        """Take a line, or a part of it, off a placed order."""
        order = max(1, self.model.order_number - back)
        number = max(1, self.model.last_line - line)
        self.do(
            "OrderService/VoidLine",
            order_pb2.VoidLineRequest(
                order_number=order, line_number=number, quantity=quantity, reason="spilled"
            ),
            lambda: self.model.void(order, number, quantity),
        )

    @mostly(lambda self: self.model.tab > 0)
    @rule(percent=st.sampled_from([10, 15, 20, 12]), toggle=st.booleans())
    def tip_percentage(self, percent: int, toggle: bool) -> None:
        """Set the tip to a percentage, or toggle it."""
        self.do(
            "PaymentService/SetTip",
            payment_pb2.SetTipRequest(percentage=percent, toggle=toggle),
            lambda: self.model.set_tip(percent, None, toggle=toggle),
        )

    @mostly(lambda self: self.model.tab > 0)
    @rule(amount=st.sampled_from([0, 1, 250, 5000]))
    def tip_amount(self, amount: int) -> None:
        """Set a fixed tip."""
        self.do(
            "PaymentService/SetTip",
            payment_pb2.SetTipRequest(amount=usd(amount)),
            lambda: self.model.set_tip(None, amount, toggle=False),
        )

    @mostly(lambda self: self.model.tip > 0)
    @rule()
    def tip_clear(self) -> None:
        """Take the tip away."""
        self.do(
            "PaymentService/SetTip",
            payment_pb2.SetTipRequest(clear=True),
            lambda: self.model.set_tip(None, None, toggle=False),
        )

    @mostly(lambda self: self.model.balance < 3_000)
    @rule(delta=st.sampled_from([0, 1, 3000, -1, -3000, 10**12]), check=st.booleans())
    def adjust_balance(self, delta: int, check: bool) -> None:
        """Change the balance by hand."""
        self.do(
            "PaymentService/AdjustBalance",
            payment_pb2.AdjustBalanceRequest(delta=usd(delta), reason="voucher"),
            lambda: self.model.adjust(delta),
            check=check,
        )

    @mostly(lambda self: self.model.tab > 0)
    @rule(check=st.booleans())
    def create_payment(self, check: bool) -> None:
        """Ask for what is owed."""
        request = payment_pb2.CreatePaymentRequest()
        self.do("PaymentService/CreatePayment", request, self.model.create_payment, check=check)

    @mostly(lambda self: self.model.unsettled())
    @rule()
    def cancel_payment(self) -> None:
        """Withdraw the link."""
        request = payment_pb2.CancelPaymentRequest(reason="changed their mind")
        if self.model.pay is not None:
            request.payment_id = self._newest_payment().payment_id
        self.do("PaymentService/CancelPayment", request, self.model.cancel_payment)

    @mostly(lambda self: self.model.tab > 0)
    @rule(check=st.booleans())
    def complete_payment(self, check: bool) -> None:
        """Take cash."""
        rpc = "PaymentService/CompletePayment"
        self.do(rpc, in_cash(self.id), self.model.complete_by_hand, check=check)

    @precondition(lambda self: self.model.pay is not None)
    @mostly(lambda self: self.model.pay is not None and self.model.pay.status == "SUCCEEDED")
    @rule(amount=st.sampled_from([None, 1, 400, 10_000]))
    def refund_payment(self, amount: int | None) -> None:
        """Give money of the newest payment back."""
        self.do(
            "PaymentService/RefundPayment",
            payment_pb2.RefundPaymentRequest(
                payment_id=self._newest_payment().payment_id,
                amount=None if amount is None else usd(amount),
                reason="warm beer",
            ),
            lambda: self.model.refund(amount),
        )

    @precondition(lambda self: self.model.pay is not None and self.model.pay.link != "")
    @rule(told=st.booleans())
    def guest_pays(self, told: bool) -> None:
        """Pay the newest link, late if it must be; `told` says whether the server hears of it."""
        if self.model.guest_pays():
            simulated.pay(
                self.house.folder,
                self._newest_payment().provider_payment_id,
                late=True,
                clock=self.house.clock,
            )
        if told:
            self._learn()

    @rule(turns=st.sampled_from([1, 1, 2, 6]), check=st.booleans())
    def record_turns(self, turns: int, check: bool) -> None:
        """Talk for a while."""
        for _ in range(turns):
            self.do("ConversationService/RecordTurn", turn(self.id), self.model.turn, check=check)

    @rule(data=st.data(), which=st.sampled_from(["labels", "topic", "expiry", "phase"]))
    def chore(self, data: st.DataObject, which: str) -> None:
        """Do what has nothing to do with money."""
        few = st.dictionaries(st.sampled_from("ab"), st.sampled_from(["", "7"]))
        match which:
            case "labels":
                self.update(data.draw(st.none() | few), data.draw(st.none() | few))
            case "topic":
                self.update_context(data.draw(st.sampled_from(["", "drinks", "weather"])))
            case "expiry":
                self.extend(data.draw(st.sampled_from([0, 60, 7200])), data.draw(st.booleans()))
            case _:
                self.reset_phase()

    def reset_phase(self) -> None:
        """Begin the conversation anew."""
        request = conversation_pb2.ResetPhaseRequest()
        self.do("ConversationService/ResetPhase", request, self.model.reset_phase)

    def update_context(self, topic: str) -> None:
        """Remember what it is about."""
        self.do(
            "ConversationService/UpdateContext",
            conversation_pb2.UpdateContextRequest(topic=topic),
            lambda: self.model.set_topic(topic),
        )

    def update(self, labels: dict[str, str] | None, attributes: dict[str, str] | None) -> None:
        """Replace labels, attributes or both."""
        request = session_pb2.UpdateSessionRequest(labels=labels)
        if labels is not None:
            request.update_mask.paths.append("labels")
        if attributes is not None or labels is None:
            attributes = attributes or {}
            request.update_mask.paths.append("attributes")
            if attributes:
                request.attributes.CopyFrom(Struct())
                request.attributes.update(attributes)
        self.do(
            "SessionService/UpdateSession", request, lambda: self.model.update(labels, attributes)
        )

    def extend(self, idle: int, check: bool) -> None:
        """Move the expiry."""
        self.do(
            "SessionService/ExtendSession",
            session_pb2.ExtendSessionRequest(idle_seconds=idle),
            lambda: self.model.extend(idle),
            check=check,
        )

    @mostly(lambda self: self.model.paid_through > 0 and not self.model.unsettled())
    @rule(reason=REASONS, check=st.booleans())
    def reset(self, reason: str, check: bool) -> None:
        """Restore the defaults."""
        self.do(
            "SessionService/ResetSession",
            session_pb2.ResetSessionRequest(reason=reason),
            lambda: self.model.reset(reason),
            check=check,
        )

    @mostly(lambda self: self.model.version > 30)
    @rule(reason=REASONS)
    def close(self, reason: str) -> None:
        """End the session; not too soon, for little happens afterwards."""
        self.do(
            "SessionService/CloseSession",
            session_pb2.CloseSessionRequest(reason=reason),
            lambda: self.model.close(reason),
        )

    @precondition(lambda self: bool(self.answered))
    @rule(data=st.data(), version=st.none() | st.integers(1, 3))
    def retry(self, data: st.DataObject, version: int | None) -> None:
        """Send something again: the same event, and no second effect, whatever was expected."""
        rpc, sent, event = data.draw(st.sampled_from(self.answered))
        request = type(sent)()
        request.CopyFrom(sent)
        if version is not None:
            request.expected_version = version  # type: ignore[attr-defined]  # all of these have it
        if self.model.overdue():
            self.sweep()
        reply = self.call(rpc, request)

        assert not isinstance(reply, Failure), reply
        assert reply.replayed
        assert _bytes_of(reply.event) == event
        assert reply.session.version == self.model.version

    @rule(data=st.data(), which=st.sampled_from(["nonsense", "used id", "wrong version"]))
    def misuse(self, data: st.DataObject, which: str) -> None:
        """Ask for what cannot be."""
        match which:
            case "used id" if self.answered:
                self.reuse(data)
            case "wrong version":
                self.expect_wrongly(
                    data.draw(st.sampled_from(["version", "payment_version", "reset_count"]))
                )
            case _:
                words = st.sampled_from([*MODIFIERS, "on fire"])
                self.add_item(
                    data.draw(st.sampled_from(NAMES)),
                    1,
                    data.draw(st.lists(words, max_size=2)),
                    True,
                )

    def reuse(self, data: st.DataObject) -> None:
        """Send something else under a request id that was used."""
        rpc, sent, _ = data.draw(st.sampled_from(self.answered))
        request_id = sent.request_id  # type: ignore[attr-defined]  # all of these have it
        if self.model.overdue():
            self.sweep()
        if rpc == "ConversationService/RecordTurn":
            request: Message = add(self.id, request_id=request_id)
            rpc = "OrderService/AddItem"
        else:
            request = turn(self.id, request_id=request_id)
            rpc = "ConversationService/RecordTurn"
        found = self.call(rpc, request)

        assert isinstance(found, Failure), found
        assert (found.status, found.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")

    def expect_wrongly(self, which: str) -> None:
        """Expect another state than there is."""
        wrong = {
            "version": self.model.version + 1,
            "payment_version": self.model.payment_version + 1,
            "reset_count": self.model.resets + 1,
        }[which]
        found = self.call(
            "OrderService/AddItem",
            _expecting(self.id, which, wrong),
        )

        assert isinstance(found, Failure), found
        assert (found.status, found.reason) == ("ABORTED", "CONCURRENT_MODIFICATION")
        assert found.metadata["current_version"] == str(self.model.version)

    @rule(seconds=st.sampled_from([-100.0, 0.5, 30.0, 61.0, 700.0, 1801.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        """Move the clock; backward, too, as a real one may."""
        self.house.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        """Look after what is due."""
        self.call("AdminService/SweepExpired", admin_pb2.SweepExpiredRequest(limit=100_000))
        self.model.sweep()

    @invariant()
    def same(self) -> None:
        """State, past and log are what they must be."""
        if not hasattr(self, "model"):
            return
        session = self.call(
            "SessionService/GetSession", session_pb2.GetSessionRequest(session_id=self.id)
        ).session
        audit = self.call(
            "AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id=self.id)
        )
        self.model.expire()
        assert shown(session) == told(self.model)
        require_ledger(session)
        assert audit.valid, audit
        assert audit.events == session.version
        body = _bytes_of(session)
        assert self.seen.setdefault(session.version, body) == body
        version = sorted(self.seen)[self.requests * 7919 % len(self.seen)]
        past = self.call(
            "SessionService/GetSession",
            session_pb2.GetSessionRequest(session_id=self.id, at_version=version),
        ).session
        assert _bytes_of(past) == self.seen[version]

    def teardown(self) -> None:
        """Look a last time."""
        if hasattr(self, "model"):
            self.finish()

    def finish(self) -> None:
        """The log has every version once, and a watch from its beginning tells them in order."""
        listed = self.call(
            "SessionService/ListEvents",
            session_pb2.ListEventsRequest(session_id=self.id, page_size=1000),
        )
        versions = [event.version for event in listed.events]
        assert versions == list(range(1, self.model.version + 1))
        watched = self.call(
            "SessionService/WatchSession",
            session_pb2.WatchSessionRequest(session_id=self.id, after_version=0),
        )
        first = list(watched.events.events)
        assert first == list(listed.events)[: len(first)]


def _bytes_of(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _expecting(session_id: str, which: str, value: int) -> Message:
    request = add(session_id, request_id="never")
    setattr(request, f"expected_{which}", value)
    return request


def shown(session: state_pb2.Session) -> dict[str, Any]:
    """What a session says of itself, as plain values."""
    payment, talk = session.payment, session.conversation
    newest = session.latest_payment
    return {
        "version": session.version,
        "payment_version": payment.version,
        "status": state_pb2.SessionStatus.Name(session.status).removeprefix("SESSION_STATUS_"),
        "attention": session.attention,
        "expires": session.expires_at.seconds,
        "balance": payment.balance.minor_units,
        "tab": payment.tab_total.minor_units,
        "tip": payment.tip_amount.minor_units,
        "percent": payment.tip_percentage if payment.HasField("tip_percentage") else None,
        "credit": payment.credit.minor_units,
        "total": payment.total.minor_units,
        "tab status": state_pb2.TabStatus.Name(payment.status).removeprefix("TAB_STATUS_"),
        "phase": state_pb2.Phase.Name(talk.phase).removeprefix("PHASE_"),
        "turns": (talk.turn_count, talk.small_talk_count, talk.last_order_turn),
        "placed": talk.order_placed_since_turn,
        "topic": talk.context.topic,
        "order": {line.line_number: line.quantity for line in session.order.lines},
        "numbers": (session.last_order_number, session.last_line_number),
        "paid_through": session.paid_through_line,
        "resets": session.reset_count,
        "labels": dict(session.labels),
        "attributes": MessageToDict(session.attributes),
        "received": (session.ledger.received, session.ledger.refunded),
        "payment": (
            (
                state_pb2.PaymentStatus.Name(newest.status).removeprefix("PAYMENT_STATUS_"),
                newest.amount.minor_units,
                newest.refunded_amount.minor_units,
                newest.superseded,
            )
            if session.HasField("latest_payment")
            else None
        ),
    }


def told(model: Model) -> dict[str, Any]:
    """The same of the model."""
    pay = model.pay
    return {
        "version": model.version,
        "payment_version": model.payment_version,
        "status": model.status,
        "attention": model.attention,
        "expires": model.expires_s,
        "balance": model.balance,
        "tab": model.tab,
        "tip": model.tip,
        "percent": model.percent,
        "credit": model.credit,
        "total": max(0, model.tab + model.tip - model.credit),
        "tab status": _tab_status(model),
        "phase": model.phase,
        "turns": (model.turns, model.small_talk, model.order_turn),
        "placed": model.placed_since,
        "topic": model.topic,
        "order": {number: line.left for number, line in model.order.items()},
        "numbers": (model.order_number, model.last_line),
        "paid_through": model.paid_through,
        "resets": model.resets,
        "labels": model.labels,
        "attributes": model.attributes,
        "received": (model.received, model.refunded),
        "payment": (
            (pay.status, pay.amount, pay.refunded, pay.superseded)
            if pay is not None and pay.resets == model.resets
            else None
        ),
    }


def _tab_status(model: Model) -> str:
    if model.unsettled():
        return "PROCESSING"
    pay = model.pay
    paid = pay is not None and pay.resets == model.resets and pay.status == "SUCCEEDED"
    return "COMPLETED" if paid and not model.tab else "PENDING"


def require_ledger(session: state_pb2.Session) -> None:
    """The running sums explain the balance and the tab to the last cent."""
    ledger, payment = session.ledger, session.payment

    assert payment.balance.minor_units == (
        ledger.opening - ledger.charges + ledger.reversals + ledger.adjustments + ledger.returned
    )
    assert payment.tab_total.minor_units == (
        ledger.charges - ledger.reversals - ledger.settled - ledger.written_off
    )


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """Run a server on each embedded store."""
    memory = request.param == "memory"
    house = House("memory://" if memory else f"sqlite:{tmp_path / 'maitred.db'}", tmp_path)
    yield house
    house.close()


# A failure is made smaller before it is shown, which takes its time.
@pytest.mark.timeout(600)
def test_the_server_is_what_the_model_says(house: House) -> None:
    """Whatever is done to a session in whatever order, it is what the rules say it must be."""
    run_state_machine_as_test(
        lambda: SessionMachine(house),  # type: ignore[arg-type]  # anything that makes one will do
        settings=settings(
            max_examples=max(10, settings().max_examples // 2),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
