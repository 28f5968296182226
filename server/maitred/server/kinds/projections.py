"""Rows that make payments and placed orders listable; each is derived from one event alone."""

from __future__ import annotations

from maitred.server.domain.changes import PAYMENT_CHANGES, changed_payment
from maitred.server.domain.tab import UNSETTLED
from maitred.server.kinds.tables import Table
from maitred.server.stores.base import Ref, Row
from maitred.v1 import event_pb2 as ev
from maitred.v1.state_pb2 import (
    ATTENTION_UNSPECIFIED,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    REFUND_STATUS_PENDING,
    Order,
    Payment,
)


def rows(ref: Ref, change: str, event: ev.Event, time_ns: int) -> tuple[Row, ...]:
    """Derive the rows that an event writes; most events write none."""
    written: list[Row] = []
    payment = changed_payment(change, event)
    if payment is not None:
        written.append(payment_row(ref, payment, time_ns))
    if change in PAYMENT_CHANGES and getattr(event, change).HasField("latest"):
        written.append(payment_row(ref, getattr(event, change).latest, time_ns))
    if change == "order_placed":
        written.append(order_row(ref, event.order_placed.order, time_ns))
    elif change == "line_voided":
        written.append(order_row(ref, event.line_voided.order, time_ns))
    return tuple(written)


def payment_row(ref: Ref, payment: Payment, time_ns: int) -> Row:
    """Build the row of a payment; flagged while somebody or something must look into it."""
    flagged = (
        payment.status == PAYMENT_STATUS_OUTCOME_UNKNOWN
        or (payment.superseded and payment.status in UNSETTLED)
        or payment.attention != ATTENTION_UNSPECIFIED
        or any(refund.status == REFUND_STATUS_PENDING for refund in payment.refunds)
    )
    return Row(
        table=Table.PAYMENTS,
        key=payment.payment_id,
        ref=ref,
        created_ns=time_ns,
        body=payment.SerializeToString(),
        status=payment.status,
        flag=int(flagged),
    )


def order_row(ref: Ref, order: Order, time_ns: int) -> Row:
    """Build the row of a placed order."""
    return Row(
        table=Table.ORDERS,
        key=f"{ref.id}/{order.number}",
        ref=ref,
        created_ns=time_ns,
        body=order.SerializeToString(),
        status=order.status,
    )
