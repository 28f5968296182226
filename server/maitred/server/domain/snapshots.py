"""What a payment provider reports, in domain terms; every provider is translated into these."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from maitred.server.errors import MaitredError
from maitred.v1.state_pb2 import (
    DISPUTE_STATUS_LOST,
    DISPUTE_STATUS_OPEN,
    DISPUTE_STATUS_WON,
    REFUND_STATUS_FAILED,
    REFUND_STATUS_PENDING,
    REFUND_STATUS_SUCCEEDED,
    Payment,
)


class ProviderStatus(enum.StrEnum):
    """Where a payment is at its provider."""

    OPEN = "open"
    """The guest can pay, also after a card was declined."""
    PROCESSING = "processing"
    """Paid by a method that takes time; the money may still not come."""
    PAID = "paid"
    """The money is there."""
    FAILED = "failed"
    """Refused for good."""
    EXPIRED = "expired"
    """The link died unpaid."""
    CANCELED = "canceled"
    """Withdrawn at the provider, unpaid."""
    UNKNOWN = "unknown"
    """The provider did not say."""


class RefundState(enum.StrEnum):
    """Where a refund is at its provider."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


REFUND_STATUSES = {
    RefundState.PENDING: REFUND_STATUS_PENDING,
    RefundState.SUCCEEDED: REFUND_STATUS_SUCCEEDED,
    RefundState.FAILED: REFUND_STATUS_FAILED,
}


class DisputeState(enum.StrEnum):
    """Where a dispute is at its provider."""

    OPEN = "open"
    WON = "won"
    """The money stays: decided for the house, withdrawn, or closed without a decision."""
    LOST = "lost"
    """The money is gone."""


DISPUTE_STATUSES = {
    DisputeState.OPEN: DISPUTE_STATUS_OPEN,
    DisputeState.WON: DISPUTE_STATUS_WON,
    DisputeState.LOST: DISPUTE_STATUS_LOST,
}


@dataclass(frozen=True, slots=True)
class ProviderRefund:
    """One refund as the provider knows it."""

    provider_refund_id: str
    state: RefundState
    minor_units: int
    refund_id: str = ""
    """Ours, where the refund was asked for by us."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProviderDispute:
    """One dispute as the provider knows it."""

    dispute_id: str
    """The provider's; empty where it has none, and then there is only one."""
    state: DisputeState
    minor_units: int = 0
    """How much is disputed; 0 where the provider does not say: all."""


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """One payment as its provider knows it: the only news that `apply_snapshot` takes."""

    status: ProviderStatus
    provider_payment_id: str = ""
    """Empty where the provider knows no such payment, or did not answer."""
    minor_units: int = 0
    """What is asked for and, once paid, what was received."""
    currency: str = ""
    url: str = ""
    expires_at_ns: int | None = None
    reason: str = ""
    disputes: tuple[ProviderDispute, ...] = ()
    refunds: tuple[ProviderRefund, ...] = ()
    payment_id: str = ""
    """Ours, as the provider was given it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a new payment takes from its provider and from the settings."""

    provider: str
    is_simulated: bool
    minimum: int
    """The smallest amount that the provider charges, in minor units of the session's currency."""
    maximum: int
    lifetime_s: int
    parameters: Callable[[Payment], bytes]
    """Builds the exact parameters; pure."""
    refusal: MaitredError | None = None
    """Why nothing new may be asked of the provider now."""
    step: int = 1
    """A charge must be a multiple of this."""

    def nearest(self, minor_units: int) -> int:
        """Find the amount nearest to another one that can be charged; halves go up."""
        least = -(-self.minimum // self.step) * self.step
        most = self.maximum // self.step * self.step
        rounded = (minor_units + self.step // 2) // self.step * self.step
        return min(max(rounded, least), most)
