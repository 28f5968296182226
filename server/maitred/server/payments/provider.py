"""The PaymentProvider protocol, and the errors a provider may raise.

Every call is safe to repeat: `create` and `refund` under the same key and parameters have one
effect, however often and by however many processes they are sent. A provider decides nothing about
a session: it is asked, and its answer goes through `maitred.server.domain.settlement`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

from maitred.server.domain.snapshots import ProviderRefund, ProviderSnapshot
from maitred.v1.state_pb2 import Payment


class Operation(enum.StrEnum):
    """What a provider can be asked; each has a limit of its own on how often."""

    CREATE = "create"
    RETRIEVE = "retrieve"
    FIND = "find"
    EXPIRE = "expire"
    REFUND = "refund"
    PROBE = "probe"


class Notice(NamedTuple):
    """One message of a provider's: a hint that a payment has news, never a fact by itself."""

    event_id: str
    """The provider's id of the message: the same however often it is delivered."""
    kind: str
    """What happened, in the provider's words."""
    reference: str = ""
    """What to `retrieve`: the provider's payment, or something of it; empty where nothing can."""
    payment_id: str = ""
    """Ours, where the message says it."""
    created_ns: int = 0
    """When it happened, by the provider's clock; 0 where the message does not say."""
    foreign: str = ""
    """Why the message is not for this server: another mode, another account; else empty."""


Notify = Callable[[Notice], Awaitable[object]]
"""Takes a notice in; durable when it returns. Raises: StoreError, where it could not be."""


class Limits(NamedTuple):
    """What one payment may ask for, in minor units, and how long its link may live."""

    minimum: int
    maximum: int
    step: int
    """A charge must be a multiple of this."""
    lifetime_min_s: int
    lifetime_max_s: int


class ProviderError(Exception):
    """The provider did not do what it was asked. The message is for the log and for staff."""


class Rejected(ProviderError):
    """The provider refused: certainly not done, and the same request will be refused again."""


class Declined(Rejected):
    """The provider refused the money itself: the card, the account, the refund."""


class Unreachable(ProviderError):
    """The request was certainly not sent, or certainly not taken up; it may be sent again."""


class RateLimited(Unreachable):
    """Too many requests: certainly not done; ask again later."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(ProviderError):
    """No answer came: it may be done or may still be done. Send the same key again, or look."""


class AnsweredWithFault(OutcomeUnknown):
    """The provider broke down over the request and says so; it may repeat that for this key."""


class Unauthorized(Unreachable):
    """The provider does not accept the key: certainly not done, until somebody mends that."""


class BadNotice(Exception):
    """Bytes that are no notice of this provider: unsigned, too old, or malformed."""


class PaymentProvider(Protocol):
    """Takes money on behalf of the house."""

    name: str
    """Stands in `Payment.provider`; lower case."""
    is_simulated: bool

    def limits(self, currency: str) -> Limits:
        """Read what may be asked for in a currency."""

    def parameters(self, payment: Payment) -> bytes:
        """Build what `create` is to be sent for a payment: pure, canonical JSON, complete.

        It is stored with the payment and sent byte for byte, also after an upgrade of the server.
        """

    async def create(self, parameters: bytes, key: str) -> ProviderSnapshot:
        """Make a link to pay with. The same key again answers the same payment as it is now.

        Raises: Rejected, Unreachable, RateLimited, OutcomeUnknown, AnsweredWithFault.
        """

    async def retrieve(self, reference: str) -> ProviderSnapshot:
        """Read a payment as it is now, by its id or by the reference of a notice.

        Raises: Rejected, where there is none; Unreachable, RateLimited, OutcomeUnknown.
        """

    async def find(self, payment_id: str, created_ns: int) -> ProviderSnapshot | None:
        """Look for what was created for our payment, at about the time given; None: nothing was.

        Raises: Unreachable, RateLimited, OutcomeUnknown.
        """

    async def expire(self, provider_payment_id: str) -> ProviderSnapshot:
        """Make a link unusable, and answer the payment as it is then: paid, if that came first.

        Raises: Rejected, where there is none; Unreachable, RateLimited, OutcomeUnknown.
        """

    async def refund(
        self, provider_payment_id: str, refund_id: str, minor_units: int, key: str
    ) -> ProviderRefund:
        """Give money back. The same key again answers the same refund as it is now.

        Raises: Rejected, Declined, Unreachable, RateLimited, OutcomeUnknown.
        """

    def completed(self, since_ns: int) -> AsyncIterator[ProviderSnapshot]:
        """Iterate over the payments that were made since then and have been paid.

        Raises: Unreachable, RateLimited, OutcomeUnknown.
        """

    def read_notice(self, body: bytes, signature: str) -> Notice:
        """Verify and read a message that came from outside. Raises: BadNotice."""

    async def probe(self) -> None:
        """Ask for a sign of life. Raises: ProviderError; Unauthorized, where the key is wrong."""

    async def start(self, notify: Notify) -> None:
        """Begin to hand out notices, where the provider does so by itself."""

    async def aclose(self) -> None:
        """Let go of connections; calls under way end with OutcomeUnknown."""


def canonical_json(value: Mapping[str, object]) -> bytes:
    """Write JSON in the one way that the same content is always written in."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()
