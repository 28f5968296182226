"""Money in minor units, exactly. Never a float."""

from __future__ import annotations

from maitred.server.domain.currencies import CURRENCIES
from maitred.server.errors import AmountOutOfRange, CurrencyMismatch, InvalidField, Violation
from maitred.v1.common_pb2 import Money

MAX_MINOR_UNITS = 10**12
"""Bound of every amount and of every sum in state, either way: the contract's."""


def money(minor_units: int, currency: str) -> Money:
    """Build an amount."""
    return Money(minor_units=minor_units, currency=currency)


def write_money(amount: Money, minor_units: int, currency: str) -> None:
    """Write an amount into a message that is part of another one."""
    amount.minor_units = minor_units
    amount.currency = currency


def check_currency(currency: str, field: str) -> None:
    """Refuse a currency whose rules are not known.

    Raises: InvalidField.
    """
    if currency not in CURRENCIES:
        raise InvalidField(
            f"{field}: currency {currency!r} is not supported",
            violations=[Violation(field, "currency.supported", "is not a supported currency")],
        )


def require_currency(amount: Money, currency: str, field: str) -> None:
    """Refuse an amount in another currency than the session's.

    Raises: CurrencyMismatch.
    """
    if amount.currency != currency:
        raise CurrencyMismatch(
            f"{field} is in {amount.currency}, the session in {currency}",
            metadata={"expected": currency, "got": amount.currency},
            violations=[Violation(field, "currency.session", f"must be in {currency}")],
        )


def format_money(minor_units: int, currency: str) -> str:
    """Write an amount for people: `12.50 USD`. Every text that speaks of money does it so."""
    known = CURRENCIES.get(currency)
    exponent = 2 if known is None else known.exponent
    sign = "-" if minor_units < 0 else ""
    digits = str(abs(minor_units)).rjust(exponent + 1, "0")
    if exponent == 0:
        return f"{sign}{digits} {currency}"
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]} {currency}"


def out_of_range(operation: str, of: str, minor_units: int, currency: str) -> AmountOutOfRange:
    """Build the refusal of an operation that would bring the sum `of` something out of bounds."""
    limit = MAX_MINOR_UNITS if minor_units > 0 else -MAX_MINOR_UNITS
    return AmountOutOfRange(
        f"this would bring {of} to {format_money(minor_units, currency)};"
        f" the limit is {format_money(limit, currency)}",
        metadata={
            "operation": operation,
            "amount": str(minor_units),
            "minimum": str(-MAX_MINOR_UNITS),
            "maximum": str(MAX_MINOR_UNITS),
            "currency": currency,
        },
    )


def clamped(minor_units: int) -> int:
    """Bring an amount of a provider's into what a message can show; nothing is booked by it."""
    return min(max(minor_units, 0), MAX_MINOR_UNITS)


def step_of(currency: str) -> int:
    """Read what a charge must be a multiple of; 1 for a currency that nobody knows."""
    known = CURRENCIES.get(currency)
    return 1 if known is None else known.step


def percentage_of(minor_units: int, percent: int, step: int = 1) -> int:
    """Take a percentage of a non-negative amount in whole steps, half up, in integers."""
    return (minor_units * percent + 50 * step) // (100 * step) * step
