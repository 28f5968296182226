"""Amounts: `Money` as the contract has it, or a plain int of minor units of a known currency."""

from __future__ import annotations

from decimal import Decimal

from maitred.v1.common_pb2 import Money

_EXPONENTS = {
    # As Stripe counts them, and so the contract; two decimals unless listed.
    **dict.fromkeys("BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split(), 0),
    **dict.fromkeys("BHD JOD KWD OMR TND".split(), 3),
}


def money(amount: Money | int, currency: str) -> Money:
    """Make `Money` of an int of minor units; leave `Money` as it is."""
    if isinstance(amount, Money):
        return amount
    return Money(minor_units=amount, currency=currency)


def optional_money(amount: Money | int | None, currency: str) -> Money | None:
    """Make `Money` where there is an amount."""
    return None if amount is None else money(amount, currency)


def format_money(amount: Money) -> str:
    """Write an amount for people: `12.50 USD`."""
    exponent = _EXPONENTS.get(amount.currency, 2)
    return f"{Decimal(amount.minor_units).scaleb(-exponent):.{exponent}f} {amount.currency}".strip()
