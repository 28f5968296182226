"""The life of a session."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from maitred.server.domain import attention, conversations, sessions, updates
from maitred.server.domain.money import money
from maitred.server.errors import (
    AlreadyExists,
    CardNumberRefused,
    InvalidField,
    MaitredError,
    PaymentOpen,
    PermissionDenied,
    ReasonRequired,
    SessionClosed,
    SessionDeleted,
    SessionExpired,
    TabOpen,
)
from maitred.v1.conversation_pb2 import NewMessage, RecordTurnRequest
from maitred.v1.session_pb2 import CreateSessionRequest, ExtendSessionRequest, UpdateSessionRequest
from maitred.v1.state_pb2 import (
    ATTENTION_ABANDONED_TAB,
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_REFUND_FAILED,
    ATTENTION_UNSPECIFIED,
    BALANCE_POLICY_BUDGET,
    BALANCE_POLICY_LIMIT,
    MESSAGE_ROLE_USER,
    PHASE_GREETING,
    REFUND_STATUS_PENDING,
    SESSION_STATUS_ACTIVE,
    SESSION_STATUS_CLOSED,
    SESSION_STATUS_EXPIRED,
    TAB_STATUS_PENDING,
    AttentionItem,
    Session,
)

RETENTION_S = 30 * 24 * 3600
SECOND = 1_000_000_000


def usd(minor_units: int) -> Any:
    """An amount in US dollars."""
    return money(minor_units, "USD")


def struct(**values: Any) -> Struct:
    """Free data."""
    made = Struct()
    made.update(values)
    return made


def tick(log: Any, retention_s: int = RETENTION_S) -> Any:
    """Decide what the time asks for."""
    return sessions.tick(log.session, log.now_ns, retention_s)


def wake_ns(log: Any, retention_s: int = RETENTION_S) -> Any:
    """When the session wants attention."""
    return sessions.wake_at_ns(log.session, retention_s)


def update(log: Any, *paths: str, **fields: Any) -> Any:
    """Decide on an update of the paths."""
    request = UpdateSessionRequest(**fields)
    request.update_mask.paths.extend(paths)
    return updates.update(log.session, request)


# --- creation -----------------------------------------------------------------------------------


def test_a_new_session_has_the_defaults(log: Any) -> None:
    """Balance from the settings, nothing owed, nothing said."""
    session = log.session

    assert (session.session_id, session.version, session.status) == (
        "s-1_a",
        1,
        SESSION_STATUS_ACTIVE,
    )
    assert (session.payment.balance, session.payment.total) == (usd(100_000), usd(0))
    assert (session.payment.status, session.payment.version) == (TAB_STATUS_PENDING, 0)
    assert (session.conversation.phase, session.conversation.turn_count) == (PHASE_GREETING, 0)
    assert (session.menu_id, session.idle_seconds) == ("bar", 3600)
    assert (session.balance_policy, session.ledger.opening) == (BALANCE_POLICY_BUDGET, 100_000)
    assert session.created_at.ToNanoseconds() == log.now_ns
    assert session.expires_at.ToNanoseconds() == log.now_ns + 3600 * SECOND


def test_a_session_is_created_as_asked(new_log: Any) -> None:
    """What the request names wins over the settings."""
    session = new_log(
        menu_id="other",
        opening_balance=money(0, "JPY"),
        balance_policy=BALANCE_POLICY_LIMIT,
        idle_seconds=60,
        customer_id="c-1",
        labels={"table": "7"},
        attributes=struct(vip=True),
    ).session

    assert (session.menu_id, session.idle_seconds, session.customer_id) == ("other", 60, "c-1")
    assert (session.payment.balance, session.ledger.opening) == (money(0, "JPY"), 0)
    assert session.balance_policy == BALANCE_POLICY_LIMIT
    assert (dict(session.labels), session.attributes) == ({"table": "7"}, struct(vip=True))


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (InvalidField, {"opening_balance": money(-1, "USD")}),
        (InvalidField, {"opening_balance": money(1, "ZZZ")}),
        (InvalidField, {"attributes": struct(x="y" * 20_000)}),
        (InvalidField, {"labels": {"table": "7\u202e"}}),
        (InvalidField, {"customer_id": "\u3164"}),
        (InvalidField, {"labels": {"table": "\u2800"}}),
        (CardNumberRefused, {"labels": {"card": "4242424242424242"}}),
    ],
)
def test_bad_sessions_are_refused(error: type[MaitredError], fields: Any) -> None:
    """No negative money, no unknown currency, no card number."""
    defaults = sessions.Defaults("bar", 100_000, "USD", 3600)

    with pytest.raises(error):
        sessions.create(None, CreateSessionRequest(**fields), "s", defaults)


def test_an_id_is_taken_once(log: Any) -> None:
    """A session that exists is not created again."""
    defaults = sessions.Defaults("bar", 100_000, "USD", 3600)

    with pytest.raises(AlreadyExists):
        sessions.create(log.session, CreateSessionRequest(), "s-1_a", defaults)


def test_ids_of_every_shape_order_and_pay(log: Any) -> None:
    """A session whose id holds dashes and underscores leaves pending like any other."""
    assert {"-", "_"} <= set(log.session.session_id)
    log.add("Martini")
    log.pay()

    assert log.session.payment.payment_id == "p-1"


def test_a_second_bill_can_be_paid(log: Any) -> None:
    """A settled payment is not the end of the session."""
    for _ in range(3):
        log.add("Martini")
        log.pay()

    assert (log.tab, log.session.ledger.settled) == (0, 3900)


# --- update and extension -----------------------------------------------------------------------


ODD = ["my_key", "myKey", "my-key", "my.key", "a.b.c", "My Key", "*", "ключ"]


def test_labels_are_set_removed_and_replaced(log: Any) -> None:
    """One by one without a mask; whole with one."""
    log.apply(update(log, labels={"table": "7", "a.b": "x", "c_d": "y", "e-f": "z"}))
    log.apply(update(log, labels={"table": "8"}, remove_labels=["a.b", "c_d", "e-f", "gone"]))
    assert dict(log.session.labels) == {"table": "8"}
    log.apply(update(log, "labels", labels={"x": "1"}))
    assert dict(log.session.labels) == {"x": "1"}
    log.apply(update(log, "labels"))

    assert not log.session.labels


def test_attributes_are_set_removed_and_replaced(log: Any) -> None:
    """By the very names that they have, whatever these hold."""
    log.apply(update(log, attributes=struct(**dict.fromkeys(ODD, 1), kept=1)))
    log.apply(update(log, attributes=struct(**dict.fromkeys(ODD[:4], 2))))
    assert log.session.attributes == struct(
        **dict.fromkeys(ODD[4:], 1), **dict.fromkeys(ODD[:4], 2), kept=1
    )
    for gone, name in enumerate(ODD, 1):
        log.apply(update(log, remove_attributes=[name]))
        assert set(log.session.attributes.fields) == {*ODD[gone:], "kept"}
    log.apply(update(log, "attributes", attributes=struct(b={"c": 2})))
    assert log.session.attributes == struct(b={"c": 2})
    log.apply(update(log, "attributes"))

    assert not log.session.HasField("attributes")


def test_a_mask_leaves_alone_what_it_does_not_name(log: Any) -> None:
    """As masks do; what is to be removed is removed all the same."""
    log.apply(update(log, labels={"a": "1", "b": "2"}, attributes=struct(x=1), customer_id="c"))
    log.apply(
        update(
            log,
            "attributes",
            labels={"a": "9"},
            attributes=struct(y=2),
            customer_id="d",
            remove_labels=["b"],
        )
    )

    assert dict(log.session.labels) == {"a": "1"}
    assert log.session.attributes == struct(y=2)
    assert log.session.customer_id == "c"


@pytest.mark.parametrize("mask", ["attributes.myKey", "labels.table", "attributes", "customerId"])
def test_a_mask_in_json_deletes_nothing_by_mistake(log: Any, mask: str) -> None:
    """JSON turns `myKey` into `my_key`: single names are refused, whole fields do as they say."""
    log.apply(update(log, labels={"table": "7"}, attributes=struct(myKey=1, my_key=2)))
    request = json_format.Parse(
        json.dumps({"updateMask": mask, "attributes": {"myKey": 3, "my_key": 2}}),
        UpdateSessionRequest(),
    )
    if "." in mask:
        with pytest.raises(InvalidField) as error:
            updates.update(log.session, request)
        assert error.value.violations[0].field == "update_mask"
        assert "remove_attributes" in error.value.message
    else:
        event = updates.update(log.session, request)
        assert (event is not None) == (mask == "attributes")


def test_the_customer_is_updated(log: Any) -> None:
    """Set and cleared; labels stay."""
    log.apply(update(log, "labels", labels={"table": "7"}))
    log.apply(update(log, "customer_id", customer_id="c-1"))
    assert log.session.customer_id == "c-1"
    log.apply(update(log, "customer_id"))

    assert (log.session.customer_id, dict(log.session.labels)) == ("", {"table": "7"})
    log.apply(update(log, customer_id="c-2"))
    assert log.session.customer_id == "c-2"
    log.apply(update(log, customer_id=""))
    assert log.session.customer_id == ""


def test_an_update_without_change_is_no_event(log: Any) -> None:
    """The same values again do nothing."""
    log.apply(update(log, "labels", "attributes", labels={"a": "b"}, attributes=struct(x=1)))

    assert update(log, "labels", labels={"a": "b"}) is None
    assert update(log, attributes=struct(x=1), remove_labels=["zz"]) is None
    assert update(log, remove_attributes=["zz"]) is None


@pytest.mark.parametrize(
    "paths",
    [
        (),
        ("version",),
        ("labels.",),
        ("labels.a",),
        ("attributes.my_key",),
        ("customer_id.x",),
        ("",),
        ("*",),
        ("labels", "labels.a"),
    ],
)
def test_a_bad_mask_is_refused(log: Any, paths: tuple[str, ...]) -> None:
    """Only what may be updated, and something."""
    with pytest.raises(InvalidField) as error:
        update(log, *paths)

    assert error.value.violations[0].field == "update_mask"


def test_updates_are_bounded(log: Any) -> None:
    """The bounds hold for what is there afterwards, not only for the request."""
    log.apply(update(log, "labels", labels={f"k{n}": "" for n in range(32)}))
    log.apply(update(log, "attributes", attributes=struct(a="x" * 9000)))

    with pytest.raises(InvalidField):
        update(log, labels={"more": ""})
    with pytest.raises(InvalidField):
        update(log, attributes=struct(b="x" * 9000))


def test_extending_moves_the_expiry(log: Any) -> None:
    """From now on; 0 keeps the span."""
    log.advance(100)
    log.apply(sessions.extend(log.session, ExtendSessionRequest(idle_seconds=7200)))
    assert log.session.expires_at.ToNanoseconds() == log.now_ns + 7200 * SECOND
    log.advance(100)
    log.apply(sessions.extend(log.session, ExtendSessionRequest()))

    assert log.session.idle_seconds == 7200
    assert log.session.expires_at.ToNanoseconds() == log.now_ns + 7200 * SECOND


# --- reset, close, delete -----------------------------------------------------------------------


def test_a_reset_restores_the_defaults(new_log: Any) -> None:
    """One event; id, labels, customer and running numbers stay, the rest is as at first."""
    log = new_log(
        opening_balance=usd(5000), labels={"table": "7"}, customer_id="c-1", idle_seconds=60
    )
    log.add("Martini")
    log.tip(percentage=10)
    log.place()
    log.add("Water")
    log.apply(
        conversations.record_turn(
            log.session, RecordTurnRequest(messages=[NewMessage(text="hi", role=MESSAGE_ROLE_USER)])
        )
    )
    log.apply(update(log, "attributes", attributes=struct(a=1)))
    payment_version = log.session.payment.version
    event = log.apply(sessions.reset(log.session, "walked out", staff=True)).session_reset

    after = log.session
    assert (after.session_id, after.customer_id, dict(after.labels)) == (
        "s-1_a",
        "c-1",
        {"table": "7"},
    )
    assert (after.reset_count, after.last_order_number, after.last_line_number) == (1, 2, 2)
    assert (event.written_off, event.reason) == (usd(1400), "walked out")
    assert (log.balance, log.tab, log.tip_amount) == (5000, 0, 0)
    assert after.payment.version == payment_version + 1
    assert (after.conversation.phase, after.conversation.turn_count) == (PHASE_GREETING, 0)
    assert not after.HasField("order")
    assert not after.HasField("attributes")
    assert (after.ledger.opening, after.ledger.charges, after.idle_seconds) == (5000, 0, 60)
    assert after.created_at == log.events[0].time
    assert log.add("Water").line_added.order_number == 3


def test_a_reset_leaves_earlier_payments_behind(log: Any) -> None:
    """The new tab is pending, the numbers of payments go on, and credit stays the guest's."""
    log.add("Martini")
    log.open_payment()
    log.remove(1)
    log.settle()
    log.apply(sessions.reset(log.session, "", staff=False))
    assert log.session.payment.credit == usd(1300)
    log.add("Daiquiri")

    assert (log.session.payment.status, log.session.payment.payment_id) == (TAB_STATUS_PENDING, "")
    log.open_payment()
    assert log.session.latest_payment.number == 2
    assert log.session.latest_payment.amount == usd(0)


def test_a_session_is_closed(log: Any) -> None:
    """It keeps what it was, and accepts no new commands."""
    payment = log.session.payment
    log.apply(sessions.close(log.session, "bye", staff=False))

    assert (log.session.status, log.session.close_reason) == (SESSION_STATUS_CLOSED, "bye")
    assert log.session.payment == payment
    with pytest.raises(SessionClosed):
        sessions.require_open(log.session)


def test_closing_writes_the_tab_off(log: Any) -> None:
    """By staff, with a reason; the ledger explains it."""
    log.add("Martini")
    log.tip(percentage=10)
    event = log.apply(sessions.close(log.session, "on the house", staff=True)).session_closed

    assert (event.written_off, log.tab, log.tip_amount) == (usd(1300), 0, 0)
    assert log.session.ledger.written_off == 1300


@pytest.mark.parametrize("end", [sessions.reset, sessions.close])
@pytest.mark.parametrize(
    ("error", "reason", "staff"),
    [
        (TabOpen, "", False),
        (PermissionDenied, "because", False),
        (ReasonRequired, "", True),
        (ReasonRequired, "\u200b\u2800\u3164", True),
        (CardNumberRefused, "4242424242424242", True),
    ],
)
def test_an_open_tab_needs_staff_and_a_reason(
    log: Any, end: Any, error: type[MaitredError], reason: str, staff: bool
) -> None:
    """Nobody forgets a tab by accident."""
    log.add("Martini")

    with pytest.raises(error):
        end(log.session, reason, staff=staff)


@pytest.mark.parametrize("end", [sessions.reset, sessions.close])
def test_an_open_payment_refuses_reset_and_close(log: Any, end: Any) -> None:
    """Staff cannot write off what the guest may be paying right now."""
    log.add("Martini")
    log.open_payment()

    with pytest.raises(PaymentOpen):
        end(log.session, "because", staff=True)
    with pytest.raises(PaymentOpen):
        sessions.delete(log.session, "because")


def test_open_money_refuses_deletion(log: Any) -> None:
    """Neither a tab nor the guest's credit is erased."""
    log.add("Martini")
    with pytest.raises(TabOpen):
        sessions.delete(log.session, "gdpr")
    log.open_payment()
    log.remove(1)
    log.settle()
    with pytest.raises(TabOpen) as error:
        sessions.delete(log.session, "gdpr")

    assert error.value.metadata == {"tab": "0", "credit": "1300", "currency": "USD"}


def test_a_deleted_session_is_a_tombstone(log: Any) -> None:
    """Nothing is left but id, version and status."""
    log.apply(update(log, "labels", labels={"table": "7"}))
    log.apply(sessions.delete(log.session, "gdpr"))

    assert log.session.ByteSize() < 64
    assert (log.session.session_id, log.session.version) == ("s-1_a", 3)
    with pytest.raises(SessionDeleted):
        sessions.require_open(log.session)
    assert wake_ns(log) is None


# --- time ---------------------------------------------------------------------------------------


def test_an_idle_session_expires(log: Any) -> None:
    """Not a moment before its time, and for good."""
    assert wake_ns(log) == log.now_ns + 3600 * SECOND
    log.advance(3600)
    log.now_ns -= 1
    assert tick(log) is None
    assert not sessions.is_overdue(log.session, log.now_ns)
    log.now_ns += 1
    assert sessions.is_overdue(log.session, log.now_ns)
    log.apply(tick(log), slides=False)

    assert log.session.status == SESSION_STATUS_EXPIRED
    with pytest.raises(SessionExpired):
        sessions.require_open(log.session)


def test_every_write_moves_the_expiry(log: Any) -> None:
    """A session in use never expires."""
    for _ in range(3):
        log.advance(3000)
        log.add("Water")

    assert not sessions.is_overdue(log.session, log.now_ns)


def test_an_open_tab_never_expires(log: Any) -> None:
    """It turns to somebody's attention, once."""
    log.add("Martini")
    log.advance(4000)
    event = log.apply(tick(log), slides=False).attention_changed

    assert event.attention == ATTENTION_ABANDONED_TAB
    assert log.session.status == SESSION_STATUS_ACTIVE
    assert log.session.attention == ATTENTION_ABANDONED_TAB
    assert wake_ns(log) is None
    log.advance(10**6)
    assert tick(log) is None


def test_an_open_payment_never_expires(log: Any) -> None:
    """The guest may be paying right now."""
    log.add("Martini")
    log.open_payment()
    log.remove(1)
    log.advance(4000)

    assert not sessions.is_overdue(log.session, log.now_ns)
    assert tick(log).attention_changed.attention == ATTENTION_ABANDONED_TAB


def test_a_guest_who_comes_back_is_not_abandoned(log: Any) -> None:
    """The next tick takes the mark away; a later one may set it again."""
    log.add("Martini")
    log.advance(4000)
    log.apply(tick(log), slides=False)
    log.add("Water")
    assert wake_ns(log) <= log.now_ns
    log.apply(tick(log), slides=False)
    assert log.session.attention == ATTENTION_UNSPECIFIED
    assert wake_ns(log) == log.session.expires_at.ToNanoseconds()
    log.advance(4000)

    assert tick(log).attention_changed.attention == ATTENTION_ABANDONED_TAB


def test_an_abandoned_tab_that_was_paid_expires(log: Any) -> None:
    """Attention goes, then the session."""
    log.add("Martini")
    log.advance(4000)
    log.apply(tick(log), slides=False)
    log.pay()
    log.apply(tick(log), slides=False)
    assert log.session.attention == ATTENTION_UNSPECIFIED
    log.advance(4000)
    log.apply(tick(log), slides=False)

    assert log.session.status == SESSION_STATUS_EXPIRED


def test_what_needs_attention_keeps_its_reason(log: Any) -> None:
    """A dispute is not hidden by an abandoned tab, nor the tab by the dispute."""
    log.add("Martini")
    dispute = AttentionItem(kind=ATTENTION_DISPUTED, payment_id="p1", source_id="d1")
    attention.write(log.session, [dispute])
    log.advance(4000)
    log.apply(tick(log), slides=False)

    assert log.session.attention == ATTENTION_DISPUTED
    assert attention.kinds_of(log.session) == [ATTENTION_ABANDONED_TAB, ATTENTION_DISPUTED]
    assert wake_ns(log) is None
    log.apply(sessions.reset(log.session, "walked out", staff=True))
    assert list(log.session.attention_items) == [dispute]


@pytest.mark.parametrize(
    "kind",
    [
        ATTENTION_DISPUTED,
        ATTENTION_AMOUNT_MISMATCH,
        ATTENTION_REFUND_FAILED,
        ATTENTION_OUTCOME_UNKNOWN,
    ],
)
def test_retention_waits_while_money_is_not_where_it_belongs(log: Any, kind: Any) -> None:
    """Of an older payment as well; once that ends, the session may be erased."""
    log.advance(3600)
    log.apply(tick(log))
    attention.write(log.session, [AttentionItem(kind=kind, payment_id="p1", source_id="d1")])
    log.advance(10 * RETENTION_S)
    waiting = (wake_ns(log), tick(log))
    attention.write(log.session, [])

    assert waiting == (None, None)
    assert tick(log).HasField("session_deleted")


def test_retention_waits_for_a_refund_that_is_on_its_way(log: Any) -> None:
    """The bank may still send it back."""
    log.add("martini")
    log.pay()
    log.advance(3600)
    log.apply(tick(log))
    log.session.latest_payment.refunds.add(refund_id="r1", status=REFUND_STATUS_PENDING)
    log.advance(10 * RETENTION_S)

    assert (wake_ns(log), tick(log)) == (None, None)


def test_an_ended_session_is_erased_after_its_retention(log: Any) -> None:
    """Not before, and never where the retention is 0."""
    log.apply(sessions.close(log.session, "", staff=False))
    assert wake_ns(log, 0) is None
    log.advance(RETENTION_S - 1)
    assert tick(log) is None
    log.advance(1)

    assert tick(log).session_deleted.reason == "retention"
    assert tick(log, 0) is None


def test_credit_keeps_an_ended_session(log: Any) -> None:
    """The guest's money is not erased."""
    log.add("Martini")
    log.open_payment()
    log.remove(1)
    log.settle()
    log.apply(sessions.close(log.session, "", staff=False))
    log.advance(RETENTION_S)

    assert tick(log) is None
    assert wake_ns(log) is None


def test_a_limit_is_given_back_at_settlement(new_log: Any) -> None:
    """BALANCE_POLICY_LIMIT: what was settled may be ordered anew."""
    log = new_log(opening_balance=usd(1300), balance_policy=BALANCE_POLICY_LIMIT)
    for _ in range(3):
        log.add("Martini")
        assert log.balance == 0
        log.pay()
        assert log.balance == 1300


def test_the_state_is_what_the_log_folds_to(log: Any) -> None:
    """The log explains everything."""
    log.add("Martini")
    log.place()
    log.tip(percentage=10)
    log.pay()
    log.apply(sessions.reset(log.session, "", staff=False))

    assert log.fold() == log.session
    assert isinstance(log.session, Session)


def test_a_reset_that_gives_nothing_up_writes_nothing_off(log: Any) -> None:
    """Lines that were taken off again are not lines that staff gave up; no state grows by them."""
    for _ in range(3):
        line = log.add("Martini").line_added.line.line_number
        log.remove(line)
        log.apply(sessions.reset(log.session, "", staff=False))
        log.add("Martini")
        log.apply(sessions.reset(log.session, "walked out", staff=True))
    ranges = [(each.first, each.last) for each in log.session.written_off_lines]

    assert ranges == [(2, 2), (4, 4), (6, 6)]
    assert log.session.paid_through_line == 6
