"""What a provider can be asked to charge."""

from __future__ import annotations

from maitred.server.domain.money import MAX_MINOR_UNITS, format_money
from maitred.server.domain.snapshots import Terms
from maitred.server.errors import AmountOutOfRange


def require_chargeable(amount: int, currency: str, terms: Terms) -> None:
    """Refuse an amount that the provider cannot charge, and name the nearest that it can.

    Raises: AmountOutOfRange.
    """
    nearest = terms.nearest(amount)
    if amount == nearest:
        return
    least, most = terms.nearest(0), terms.nearest(MAX_MINOR_UNITS)
    steps = f" in steps of {format_money(terms.step, currency)}" if terms.step > 1 else ""
    raise AmountOutOfRange(
        f"the provider cannot charge {format_money(amount, currency)}, but"
        f" {format_money(nearest, currency)}: it charges {format_money(least, currency)} to"
        f" {format_money(most, currency)}{steps}",
        metadata={
            "amount": str(amount),
            "nearest": str(nearest),
            "minimum": str(least),
            "maximum": str(most),
            "step": str(terms.step),
            "currency": currency,
        },
    )
