"""Configuration of a Stripe account."""

from __future__ import annotations

from dataclasses import dataclass, field

from maitred.server.engine.clock import Clock, SystemClock

LIVE_PREFIXES = ("sk_live_", "rk_live_")


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeConfig:
    """One account in one mode, as its key says. Secrets stay out of the repr.

    Raises: ValueError, where a value cannot work.
    """

    api_key: str = field(repr=False)
    """A secret or, better, a restricted key: write Checkout Sessions and Refunds, read the rest."""
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    """Each is accepted: two while a secret is being rotated, none where no webhooks come."""
    success_url: str
    """Where a guest goes who has paid."""
    cancel_url: str = ""
    """Where a guest goes who turns back; empty: nowhere."""
    api_base: str = ""
    """Another place than Stripe's own; without a slash at its end."""
    account: str = ""
    """`acct_…`: messages that name another account are not for this server."""
    tolerance_s: int = 300
    """How far the time of a message may be from ours."""
    timeout_s: float = 20.0
    """Longest wait for bytes of an answer."""
    connect_timeout_s: float = 5.0
    """Longest wait for a connection."""
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        if not self.api_key.strip():
            raise ValueError("the Stripe key is empty")
        if not all(secret.strip() for secret in self.webhook_secrets):
            raise ValueError("a Stripe webhook secret is empty")
        if not self.success_url.startswith(("https://", "http://")):
            raise ValueError("the success URL must begin with https:// or http://")
        if self.tolerance_s <= 0:
            # The SDK takes 0 for "any age": a message that was once seen could be sent for ever.
            raise ValueError("the tolerance must be above 0 seconds")

    @property
    def livemode(self) -> bool:
        """Whether real money moves."""
        return self.api_key.startswith(LIVE_PREFIXES)
