"""Receipts: a payment's money by the way it came, so that it is refunded the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain.money import MAX_MINOR_UNITS, money
from maitred.v1.state_pb2 import (
    DISPUTE_STATUS_LOST,
    PAYMENT_METHOD_PROVIDER,
    REFUND_STATUS_FAILED,
    Payment,
    PaymentMethod,
    Receipt,
    Refund,
)

HOUSE = "house"
"""The provider of what is paid in cash, at the house's terminal or with credit."""


class Share(NamedTuple):
    """What of a refund goes back by one way."""

    method: PaymentMethod.ValueType
    minor_units: int
    currency: str


def upgrade(payment: Payment) -> None:
    """Write the receipt of a payment that is older than receipts, in place."""
    if payment.receipts or payment.received_amount.minor_units <= 0:
        return
    put(payment, payment.method, payment.received_amount.minor_units, payment.settled_at)
    payment.receipts[0].amount.currency = payment.received_amount.currency
    sum_refunds(payment)


def of(payment: Payment, method: PaymentMethod.ValueType) -> Receipt | None:
    """Find the receipt of one way."""
    return next((each for each in payment.receipts if each.method == method), None)


def put(
    payment: Payment,
    method: PaymentMethod.ValueType,
    minor_units: int,
    at: Timestamp,
    currency: str = "",
) -> None:
    """Say how much came by one way in all, in place; without a currency, in the payment's."""
    receipt = of(payment, method)
    if receipt is None:
        by_provider = method == PAYMENT_METHOD_PROVIDER
        receipt = payment.receipts.add(
            method=method, provider=payment.provider if by_provider else HOUSE, received_at=at
        )
    receipt.amount.CopyFrom(money(minor_units, currency or payment.amount.currency))


def sum_up(payment: Payment) -> None:
    """Bring the sum of what came up to date; money in another currency stands apart."""
    currency = payment.amount.currency
    came = [each.amount for each in payment.receipts if each.amount.currency == currency]
    payment.received_amount.CopyFrom(money(sum(each.minor_units for each in came), currency))


def sum_refunds(payment: Payment) -> None:
    """Bring the sums of what went back up to date, by way and in all."""
    currency = payment.amount.currency
    total = 0
    for receipt in payment.receipts:
        gone = sum(
            refund.amount.minor_units
            for refund in payment.refunds
            if refund.status != REFUND_STATUS_FAILED
            and way_of(payment, refund) == receipt.method
            and refund.amount.currency == receipt.amount.currency
        )
        if receipt.method == PAYMENT_METHOD_PROVIDER:
            gone += lost(payment)
        receipt.refunded_amount.CopyFrom(money(gone, receipt.amount.currency))
        total += gone if receipt.amount.currency == currency else 0
    payment.refunded_amount.CopyFrom(money(total, currency))


def lost(payment: Payment) -> int:
    """Add up what banks took back."""
    return sum(
        each.amount.minor_units for each in payment.disputes if each.status == DISPUTE_STATUS_LOST
    )


def way_of(payment: Payment, refund: Refund) -> PaymentMethod.ValueType:
    """Read by which way a refund goes; one that is older than ways goes as the payment came."""
    return refund.method or payment.method


def can_receive(payment: Payment, more: int) -> bool:
    """Whether a payment can show more money, whatever was reset since it began."""
    return payment.received_amount.minor_units + more <= MAX_MINOR_UNITS


def can_give_back(payment: Payment, more: int) -> bool:
    """Whether a payment can show that more money went back."""
    return payment.refunded_amount.minor_units + more <= MAX_MINOR_UNITS


def refundable(payment: Payment, method: PaymentMethod.ValueType, currency: str) -> list[Share]:
    """List what may still go back, the provider's money first; all ways where none is named."""
    ways = sorted(payment.receipts, key=lambda each: each.method != PAYMENT_METHOD_PROVIDER)
    left = [
        Share(
            each.method,
            each.amount.minor_units - each.refunded_amount.minor_units,
            each.amount.currency,
        )
        for each in ways
        if method in (0, each.method) and currency in ("", each.amount.currency)
    ]
    return [share for share in left if share.minor_units > 0]


def share_out(wanted: int, left: Sequence[Share]) -> list[Share]:
    """Take an amount from the ways in their order; they hold enough."""
    shares = []
    for share in left:
        taken = min(wanted, share.minor_units)
        if taken:
            shares.append(share._replace(minor_units=taken))
        wanted -= taken
    return shares
