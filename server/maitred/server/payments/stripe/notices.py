"""Stripe's webhooks, snapshot and thin: which account and payment they are about.

Only what says where to look is read. What happened is asked of Stripe, so that neither the order
of messages nor the version in which one was written matters.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from maitred.server.payments.provider import BadNotice, Notice
from maitred.server.payments.stripe.config import StripeConfig
from maitred.server.payments.stripe.translation import NS, our_id, part, text

Verify = Callable[[bytes, str, str], object]
"""Checks a body, its header and one secret; the SDK's."""

SNAPSHOT, THIN = "event", "v2.core.event"
PAYMENT_KINDS = ("checkout.session.", "payment_intent.", "charge.", "refund.")
"""How the types of events begin that can concern a payment."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
_KIND = re.compile(r"[a-z0-9_.\[\]]{1,255}")
_OURS = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,12}")


def read_notice(body: bytes, signature: str, config: StripeConfig, verify: Verify) -> Notice:
    """Verify and read one message. Raises: BadNotice."""
    _check_signature(body, signature, config, verify)
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise BadNotice("the message is not JSON") from None
    if not isinstance(event, dict) or event.get("object", SNAPSHOT) not in (SNAPSHOT, THIN):
        raise BadNotice("the message is not an event")
    kind = _matching(_KIND, event.get("type"), "type")
    about = _about(event)
    foreign = _foreign(event, kind, about, config)
    payment_id = our_id(about)
    return Notice(
        # Some doubles give no id; the bytes of a message are the same however often it comes.
        event_id=_optional(_ID, event.get("id"), "id") or hashlib.sha256(body).hexdigest(),
        kind=kind,
        reference="" if foreign == "unrelated event" else _reference(about),
        payment_id=payment_id if _OURS.fullmatch(payment_id) else "",
        created_ns=_created_ns(event.get("created")),
        foreign=foreign,
    )


def _check_signature(body: bytes, signature: str, config: StripeConfig, verify: Verify) -> None:
    """Let the SDK compare; the age is ours to check: it lets the future pass."""
    try:
        body.decode()
        signature.encode("ascii")
    except UnicodeError:
        raise BadNotice("the message or its signature is not text") from None
    parts = [each.partition("=") for each in signature.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    # Exactly one, in plain digits: of several, the SDK might have checked another than we read.
    if len(times) != 1 or not _SECONDS.fullmatch(times[0]):
        raise BadNotice("the signature has not the one time that it should")
    if not any(_is_signed(body, signature, secret, verify) for secret in config.webhook_secrets):
        raise BadNotice("the message is not signed with a secret of ours")
    age_ns = config.clock.now_ns() - int(times[0]) * NS
    if abs(age_ns) > config.tolerance_s * NS:
        raise BadNotice(f"the message was signed {age_ns // NS} s ago")


def _is_signed(body: bytes, signature: str, secret: str, verify: Verify) -> bool:
    try:
        verify(body, signature, secret)
    except Exception:  # noqa: BLE001 - bytes of strangers: however the SDK fails, it did not verify
        return False
    return True


def _about(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take the object that a message is about; of a thin one, only the id is told."""
    if event.get("object") == THIN:
        return part(event.get("related_object"))
    return part(part(event.get("data")).get("object"))


def _reference(about: Mapping[str, Any]) -> str:
    if about.get("object") != "checkout.session":
        intent = part(about.get("payment_intent")).get("id")
        if intent is not None:
            return _matching(_ID, intent, "payment_intent")
    return _optional(_ID, about.get("id"), "object")


def _foreign(
    event: Mapping[str, Any], kind: str, about: Mapping[str, Any], config: StripeConfig
) -> str:
    livemode = event.get("livemode")
    if livemode is not None and livemode is not config.livemode:
        return "other mode"
    account = text(event.get("account")) or text(event.get("context"))
    if account and account != config.account:
        return "other account"
    # Subscriptions and saved cards are somebody else's, too.
    paid_once = about.get("mode", "payment") == "payment" or about.get("object") != (
        "checkout.session"
    )
    if not kind.removeprefix("v1.").startswith(PAYMENT_KINDS) or not paid_once:
        return "unrelated event"
    return ""


def _created_ns(created: object) -> int:
    """Read a time: seconds since 1970 in a snapshot event, ISO 8601 in a thin one."""
    if created is None:
        return 0
    if isinstance(created, int) and not isinstance(created, bool) and 0 <= created < 1 << 33:
        return created * NS
    try:
        moment = datetime.fromisoformat(text(created))
        return round(moment.timestamp()) * NS if moment.tzinfo else 0
    except (ValueError, OverflowError):
        raise BadNotice("the message says no time") from None


def _matching(pattern: re.Pattern[str], value: object, name: str) -> str:
    if not pattern.fullmatch(text(value)):
        raise BadNotice(f"the message has no usable {name}")
    return text(value)


def _optional(pattern: re.Pattern[str], value: object, name: str) -> str:
    return "" if value is None else _matching(pattern, value, name)
