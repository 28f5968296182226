"""What a person should look at: a set whose entries come and go with what causes them.

A payment holds its own entries; a session holds those of all its payments and its own. The one
`attention` of either is only the most urgent entry, so that settling one thing never hides another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.v1.state_pb2 import (
    ATTENTION_ABANDONED_TAB,
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_OVERPAID,
    ATTENTION_REFUND_FAILED,
    ATTENTION_UNSPECIFIED,
    REFUND_STATUS_PENDING,
    Attention,
    AttentionItem,
    Payment,
    Session,
)

_OF_MONEY = frozenset(
    {
        ATTENTION_AMOUNT_MISMATCH,
        ATTENTION_DISPUTED,
        ATTENTION_REFUND_FAILED,
        ATTENTION_OUTCOME_UNKNOWN,
    }
)
"""While one of these stands, somebody's money is not where it belongs."""

URGENCY: Sequence[Attention.ValueType] = (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_REFUND_FAILED,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_OVERPAID,
    ATTENTION_ABANDONED_TAB,
)
"""Most urgent first."""


def items_of(owner: Session | Payment) -> list[AttentionItem]:
    """Read the set; states that are older than it have at most one entry."""
    if owner.attention_items or owner.attention == ATTENTION_UNSPECIFIED:
        return list(owner.attention_items)
    payment_id = owner.payment_id if isinstance(owner, Payment) else ""
    return [AttentionItem(kind=owner.attention, payment_id=payment_id)]


def has(owner: Session | Payment, kind: Attention.ValueType) -> bool:
    """Whether the set holds an entry of a kind."""
    return any(item.kind == kind for item in items_of(owner))


def holds_money(session: Session) -> bool:
    """Whether money of the session is disputed, on its way back or not booked yet."""
    refunds = session.latest_payment.refunds
    return any(item.kind in _OF_MONEY for item in items_of(session)) or any(
        refund.status == REFUND_STATUS_PENDING for refund in refunds
    )


def kinds_of(session: Session) -> list[Attention.ValueType]:
    """Read the kinds in a session's set, each once."""
    return sorted({item.kind for item in items_of(session)})


def most_urgent(items: Iterable[AttentionItem]) -> Attention.ValueType:
    """Choose the one to show where there is room for one."""
    kinds = {item.kind for item in items}
    return next((kind for kind in URGENCY if kind in kinds), ATTENTION_UNSPECIFIED)


def write(owner: Session | Payment, items: Iterable[AttentionItem]) -> None:
    """Replace the set, and what is derived from it."""
    items = list(items)
    del owner.attention_items[:]
    owner.attention_items.extend(items)
    owner.attention = most_urgent(items)


def enter(payment: Payment, kind: Attention.ValueType, now_ns: int, source_id: str = "") -> None:
    """Add an entry to a payment's set, unless it is there."""
    items = items_of(payment)
    if all((item.kind, item.source_id) != (kind, source_id) for item in items):
        write(payment, [*items, _item(kind, now_ns, payment.payment_id, source_id)])


def leave(payment: Payment, *kinds: Attention.ValueType, source_id: str | None = None) -> None:
    """Take entries off a payment's set: of these kinds and, if given, of one source."""
    kept = [
        item
        for item in items_of(payment)
        if item.kind not in kinds or source_id not in (None, item.source_id)
    ]
    write(payment, kept)


def of_session(
    session: Session, after: Payment, *, has_credit: bool, is_settled: bool
) -> list[AttentionItem]:
    """Compute a session's set after a change of one of its payments.

    Other payments keep their entries, but for what the change itself ended: no credit is left, or
    nothing is owed and nothing open.
    """
    kept = [item for item in items_of(session) if item.payment_id != after.payment_id]
    ended = set[Attention.ValueType]()
    if not has_credit:
        ended.add(ATTENTION_OVERPAID)
    if is_settled:
        ended.add(ATTENTION_ABANDONED_TAB)
    return [item for item in [*kept, *items_of(after)] if item.kind not in ended]


def of_tab(session: Session, now_ns: int, *, abandoned: bool) -> list[AttentionItem]:
    """Compute a session's set after its tab was found abandoned, or found again."""
    kept = [item for item in items_of(session) if item.kind != ATTENTION_ABANDONED_TAB]
    return [*kept, _item(ATTENTION_ABANDONED_TAB, now_ns)] if abandoned else kept


def as_it_stands(payment: Payment, items: Sequence[AttentionItem]) -> Payment:
    """Leave off a payment what its session's set no longer holds; the same object if nothing is.

    A payment that is not its session's newest is stored as its own last change left it.
    """
    held = items_of(payment)
    kept = [item for item in held if _stands(item, items)]
    if len(kept) == len(held):
        return payment
    after = Payment()
    after.CopyFrom(payment)
    write(after, kept)
    return after


def _stands(item: AttentionItem, items: Iterable[AttentionItem]) -> bool:
    return any(
        (each.kind, each.source_id) == (item.kind, item.source_id)
        and each.payment_id in ("", item.payment_id)
        for each in items
    )


def _item(
    kind: Attention.ValueType, now_ns: int, payment_id: str = "", source_id: str = ""
) -> AttentionItem:
    seconds, nanos = divmod(now_ns, 1_000_000_000)
    return AttentionItem(
        kind=kind,
        payment_id=payment_id,
        source_id=source_id,
        since=Timestamp(seconds=seconds, nanos=nanos),
    )
