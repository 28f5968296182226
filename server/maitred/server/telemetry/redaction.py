"""What never reaches a log: tokens, secrets, what guests and agents said, and card numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Final

REDACTED: Final = "[redacted]"

SECRET_KEYS: Final = frozenset(
    "token tokens authorization secret password passwd api_key apikey client_secret webhook_secret "
    "credential credentials cookie private_key tls_key_pem signature "
    "text message_text messages note topic intents entities attributes context prompt "
    "card card_number number_on_card cvc cvv channel_identifier phone email".split()
)
"""Names under which such things travel; their values are dropped whatever they are."""

_SECRET: Final = re.compile(
    r"(?i:bearer\s+)[A-Za-z0-9._~+/=-]{6,}"
    r"|\bmtd_[A-Za-z0-9_-]{8,}"
    r"|\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{6,}"
    r"|\bwhsec_[A-Za-z0-9+/=]{6,}"
)
_DIGITS: Final = re.compile(r"(?<![\d.])\d(?:[ -]?\d){11,18}(?![\d])")
_LONGEST: Final = 16 * 1024
_DEEPEST: Final = 6


def redact(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Clean one log line; a structlog processor, to stand after those that format exceptions."""
    for key, value in list(event.items()):
        event[key] = REDACTED if key.lower() in SECRET_KEYS else clean(value)
    return event


def clean(value: Any, depth: int = 0) -> Any:
    """Return a value without what must not be logged. Messages and bytes lose all their content."""
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if depth >= _DEEPEST:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {
            str(key): REDACTED if str(key).lower() in SECRET_KEYS else clean(part, depth + 1)
            for key, part in value.items()
        }
    if isinstance(value, (Sequence, set, frozenset)):
        return [clean(part, depth + 1) for part in value]
    if hasattr(value, "DESCRIPTOR"):
        # A protobuf message may hold anything that was said.
        return f"<{value.DESCRIPTOR.full_name}>"
    return clean_text(str(value))


def clean_text(text: str) -> str:
    """Mask secrets and card numbers in a text."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    text = _SECRET.sub(REDACTED, text)
    return _DIGITS.sub(_mask, text)


def _mask(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match[0])
    return f"[card {digits[-4:]}]" if _luhn(digits) else match[0]


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
