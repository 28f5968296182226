"""Stripe as a payment provider: one Checkout Session for each payment.

A Checkout Session is a link that can be paid once, dies by itself, and can be made to die. Every
answer is translated from a session that was read with its payment intent, its charge and its
refunds: one request, however the question was put.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from maitred.server.domain.snapshots import ProviderRefund, ProviderSnapshot, ProviderStatus
from maitred.server.payments.provider import (
    Limits,
    Notice,
    Notify,
    OutcomeUnknown,
    ProviderError,
    Rejected,
    Unreachable,
)
from maitred.server.payments.stripe import notices, terms, translation
from maitred.server.payments.stripe.config import StripeConfig
from maitred.server.payments.stripe.failures import failure
from maitred.server.payments.stripe.translation import NS, part, rows, text
from maitred.v1.state_pb2 import Payment

if TYPE_CHECKING:
    from stripe import StripeError
    from stripe._v1_services import V1Services

NAME = "stripe"
REPLAYED = "idempotent-replayed"
"""The header of an answer that Stripe had kept for the key."""

EXPANDED = "payment_intent.latest_charge.refunds"
"""Three levels deep; four in a list, which is the most that Stripe follows."""

PAGE = 100
CLOCK_SKEW_S = 600
"""How far Stripe's clock may be from the one that wrote down when a payment was created."""

READ: Any = {"max_network_retries": 1}

T = TypeVar("T")

_REFERENCE = re.compile(r"(cs|pi|ch|py|re|pyr|dp|du)_[A-Za-z0-9_-]{1,250}")
_RANKS = {
    each: rank
    for rank, each in enumerate(
        (ProviderStatus.PAID, ProviderStatus.PROCESSING, ProviderStatus.OPEN)
    )
}


class Sdk(NamedTuple):
    """What is used of the SDK, for one event loop."""

    api: V1Services
    close: Callable[[], Awaitable[None]]
    error: type[StripeError]
    verify: notices.Verify


class StripeProvider:
    """Takes money through one Stripe account; made by `open_stripe`."""

    name = NAME
    is_simulated = False

    def __init__(self, config: StripeConfig, sdk: Sdk) -> None:
        self._config = config
        self._sdk = sdk
        self._is_closed = False

    @property
    def livemode(self) -> bool:
        """Whether real money moves."""
        return self._config.livemode

    def limits(self, currency: str) -> Limits:
        """Read Stripe's own bounds."""
        return terms.limits(currency)

    def parameters(self, payment: Payment) -> bytes:
        """Build the parameters of the Checkout Session."""
        return terms.parameters(payment, self._config)

    async def create(self, parameters: bytes, key: str) -> ProviderSnapshot:
        """Make a Checkout Session."""
        asked = json.loads(parameters)
        session, is_replayed = await self._ask(
            lambda: self._sdk.api.checkout.sessions.create_async(asked, _once(key))
        )
        if not is_replayed:
            return translation.snapshot(session)
        return await _again(self.retrieve(text(session.get("id"))))

    async def retrieve(self, reference: str) -> ProviderSnapshot:
        """Read a session by its id or by that of its intent, charge, refund or dispute."""
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise Rejected("Stripe has no payments of such a name")
        if match[1] == "cs":
            return await self._snapshot(await self._session(reference, EXPANDED))
        intent = reference if match[1] == "pi" else await self._intent_of(match[1], reference)
        asked = {"payment_intent": intent, "expand": [f"data.{EXPANDED}"]}
        found = [session async for session in self._sessions(asked)]
        if not found:
            raise Rejected("no checkout of ours stands behind that")
        return await self._snapshot(found[0])

    async def find(self, payment_id: str, created_ns: int) -> ProviderSnapshot | None:
        """Look through the sessions of the day; the search interface lags behind."""
        created_s = created_ns // NS
        created = {
            "gte": max(0, created_s - CLOCK_SKEW_S),
            # A later request is refused: its expires_at is too near.
            "lte": created_s + terms.LIFETIME_MAX_S + CLOCK_SKEW_S,
        }
        found = [
            session
            async for session in self._sessions({"created": created})
            if payment_id in (session.get("client_reference_id"), _given_id(session))
        ]
        if not found:
            return None
        best = min(found, key=lambda each: _RANKS.get(translation.status_of(each), len(_RANKS)))
        return await self.retrieve(text(best.get("id")))

    async def expire(self, provider_payment_id: str) -> ProviderSnapshot:
        """Expire a session. Only an open one can be: of another, answer what became of it."""
        try:
            session, _ = await self._ask(
                lambda: self._sdk.api.checkout.sessions.expire_async(
                    provider_payment_id,
                    {"expand": [EXPANDED]},
                    {"max_network_retries": 0},
                )
            )
        except Rejected:
            return await self.retrieve(provider_payment_id)
        return await self._snapshot(session)

    async def refund(
        self, provider_payment_id: str, refund_id: str, minor_units: int, key: str
    ) -> ProviderRefund:
        """Refund a part of the session's payment intent."""
        session = await self._session(provider_payment_id)
        intent = text(part(session.get("payment_intent")).get("id"))
        if not intent:
            raise Rejected("nothing was paid that could be given back")
        asked: Any = {
            "amount": minor_units,
            "metadata": {"payment_id": translation.our_id(session), "refund_id": refund_id},
            "payment_intent": intent,
        }
        made, is_replayed = await self._ask(
            lambda: self._sdk.api.refunds.create_async(asked, _once(key))
        )
        if is_replayed:
            made = await _again(self._refund(text(made.get("id"))))
        return translation.refund(made)

    async def completed(self, since_ns: int) -> AsyncIterator[ProviderSnapshot]:
        """Iterate over what was paid, newest first."""
        asked = {
            "created": {"gte": max(0, since_ns // NS)},
            "expand": [f"data.{EXPANDED}"],
            "status": "complete",
        }
        async for session in self._sessions(asked):
            if translation.status_of(session) is ProviderStatus.PAID:
                yield await self._snapshot(session)

    def read_notice(self, body: bytes, signature: str) -> Notice:
        """Verify and read a webhook's body under its `Stripe-Signature`."""
        return notices.read_notice(body, signature, self._config, self._sdk.verify)

    async def probe(self) -> None:
        """Ask for one session: the cheapest question that needs what payments need."""
        await self._ask(lambda: self._sdk.api.checkout.sessions.list_async({"limit": 1}, READ))

    async def start(self, notify: Notify) -> None:
        """Do nothing: Stripe's messages come from outside, through `read_notice`."""

    async def aclose(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._sdk.close()

    async def _session(self, name: str, *expanded: str) -> Mapping[str, Any]:
        asked: Any = {"expand": list(expanded)} if expanded else {}
        session, _ = await self._ask(
            lambda: self._sdk.api.checkout.sessions.retrieve_async(name, asked, READ)
        )
        return session

    async def _refund(self, name: str) -> Mapping[str, Any]:
        made, _ = await self._ask(lambda: self._sdk.api.refunds.retrieve_async(name, {}, READ))
        return made

    async def _intent_of(self, kind: str, name: str) -> str:
        """Read which payment intent a charge, a refund or a dispute belongs to."""
        api = self._sdk.api
        services: Mapping[str, Any] = {
            "ch": api.charges,
            "py": api.charges,
            "re": api.refunds,
            "pyr": api.refunds,
        }
        service = services.get(kind, api.disputes)
        found, _ = await self._ask(lambda: service.retrieve_async(name, {}, READ))
        intent = text(part(found.get("payment_intent")).get("id"))
        if not intent:
            raise Rejected("no checkout of ours stands behind that")
        return intent

    async def _snapshot(self, session: Mapping[str, Any]) -> ProviderSnapshot:
        """Translate a session that was read with everything expanded; that holds ten refunds."""
        charge = part(part(session.get("payment_intent")).get("latest_charge"))
        asked = {"charge": text(charge.get("id"))}
        refunds = disputes = None
        if part(charge.get("refunds")).get("has_more") is True:
            refunds = [each async for each in self._all(self._sdk.api.refunds.list_async, asked)]
        if charge.get("disputed") is True:
            # The charge says so for ever; what became of it, only the dispute does.
            disputes = [each async for each in self._all(self._sdk.api.disputes.list_async, asked)]
        return translation.snapshot(session, refunds, disputes)

    def _sessions(self, asked: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        return self._all(self._sdk.api.checkout.sessions.list_async, asked)

    async def _all(
        self, list_async: Callable[..., Awaitable[Any]], asked: Mapping[str, Any]
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Iterate over all pages of a list, newest first."""
        asked = {**asked, "limit": PAGE}
        while True:
            page, _ = await self._ask(partial(list_async, asked, READ))
            for each in rows(page):
                yield each
            if page.get("has_more") is not True or not rows(page):
                return
            asked = {**asked, "starting_after": text(rows(page)[-1].get("id"))}

    async def _ask(self, request: Callable[[], Awaitable[Any]]) -> tuple[Mapping[str, Any], bool]:
        """Send one request; the answer as plain data, and whether Stripe had kept it for the key.

        Raises: ProviderError.
        """
        if self._is_closed:
            raise Unreachable("the connections to Stripe are closed")
        try:
            made = await request()
            answer, response = made.to_dict(), made.last_response
        except self._sdk.error as error:
            raise failure(error) from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The SDK takes the shape of an answer for granted.
            kind = type(error).__name__
            raise OutcomeUnknown(f"Stripe's answer cannot be read: {kind}") from None
        if not text(answer.get("object")):
            raise OutcomeUnknown("Stripe's answer is no object of Stripe's")
        return answer, response is not None and response.headers.get(REPLAYED) == "true"


def _once(key: str) -> Any:
    """Options of a request that must have one effect; the caller sends it again, not the SDK."""
    return {"idempotency_key": key, "max_network_retries": 0}


def _given_id(session: Mapping[str, Any]) -> str:
    return text(part(session.get("metadata")).get("payment_id"))


async def _again(reading: Awaitable[T]) -> T:
    """Read what an earlier request made. It was made: no failure may now say that it was not."""
    try:
        return await reading
    except ProviderError as error:
        raise OutcomeUnknown(f"made before, but cannot be read now: {error}") from None
