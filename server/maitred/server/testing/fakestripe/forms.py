"""Requests as Stripe reads them: nested forms, and rules that name what broke them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_PART = re.compile(r"\[([^\]]*)\]")


class Refusal(Exception):
    """An answer that says no, in Stripe's shape."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
        **details: str,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, **details}}


def nested(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Put `line_items[0][price_data][currency]=usd` back together; digits are places in a list."""
    root: dict[str, Any] = {}
    for key, value in pairs:
        head = key.split("[", maxsplit=1)[0]
        path = [head, *_PART.findall(key)]
        place = root
        for each in path[:-1]:
            place = place.setdefault(each, {})
        place[path[-1]] = value
    found = _lists(root)
    assert isinstance(found, dict)
    return found


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdecimal() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(each) for key, each in value.items()}


Rule = Any
"""`str`, `int`, `bool`, a list of one rule, a dict of rules (`…!` is required), or Free."""

Free = object()
"""Any keys with strings: metadata."""

SESSION: dict[str, Rule] = {
    "adaptive_pricing": {"enabled": bool},
    "cancel_url": str,
    "client_reference_id": str,
    "expand": [str],
    "expires_at": int,
    "line_items!": [
        {
            "price_data!": {
                "currency!": str,
                "product_data!": {"name!": str, "description": str, "metadata": Free},
                "unit_amount!": int,
            },
            "quantity!": int,
        }
    ],
    "locale": str,
    "metadata": Free,
    "mode!": str,
    "payment_intent_data": {"description": str, "metadata": Free, "statement_descriptor": str},
    "submit_type": str,
    "success_url!": str,
}
_RANGE = {"gt": int, "gte": int, "lt": int, "lte": int}
_PAGING = {"ending_before": str, "expand": [str], "limit": int, "starting_after": str}
SESSIONS: dict[str, Rule] = {"created": _RANGE, "payment_intent": str, "status": str, **_PAGING}
REFUND: dict[str, Rule] = {
    "amount": int,
    "charge": str,
    "expand": [str],
    "metadata": Free,
    "payment_intent": str,
    "reason": str,
}
REFUNDS: dict[str, Rule] = {"charge": str, "created": _RANGE, "payment_intent": str, **_PAGING}
ONLY_EXPAND: dict[str, Rule] = {"expand": [str]}


def validated(given: Any, rule: Rule, name: str = "") -> Any:
    """Check parameters, and read numbers and truth values out of their text.

    Raises: Refusal.
    """
    if rule is Free:
        return _free(given, name)
    if isinstance(rule, dict):
        return _object(given, rule, name)
    if isinstance(rule, list):
        if not isinstance(given, list):
            raise Refusal(f"Invalid array: {name}", param=name)
        return [validated(each, rule[0], f"{name}[{at}]") for at, each in enumerate(given)]
    if not isinstance(given, str):
        raise Refusal(f"Invalid string: {name}", param=name)
    if rule is int:
        if not re.fullmatch(r"-?[0-9]{1,15}", given):
            raise Refusal(f"Invalid integer: {name}", param=name, code="parameter_invalid_integer")
        return int(given)
    if rule is bool:
        if given not in ("true", "false"):
            raise Refusal(f"Invalid boolean: {name}", param=name)
        return given == "true"
    if not given:
        raise Refusal(f"{name} is empty", param=name, code="parameter_invalid_empty")
    return given


def _free(given: Any, name: str) -> dict[str, str]:
    if not isinstance(given, dict) or len(given) > 50:
        raise Refusal(f"Invalid object: {name}", param=name)
    for key, value in given.items():
        if len(key) > 40 or not isinstance(value, str) or len(value) > 500:
            raise Refusal(f"Invalid metadata: {name}[{key}]", param=name)
    return dict(given)


def _object(given: Any, rules: Mapping[str, Rule], name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Refusal(f"Invalid object: {name}", param=name)
    allowed = {key.rstrip("!"): rule for key, rule in rules.items()}
    for key in given:
        path = f"{name}[{key}]" if name else key
        if key == "payment_method_types":
            code = "payment_method_types_no_longer_supported"
            raise Refusal(f"{path} is no longer supported", param=path, code=code)
        if key not in allowed:
            raise Refusal(
                f"Received unknown parameter: {path}", param=path, code="parameter_unknown"
            )
    for key in rules:
        if key.endswith("!") and key[:-1] not in given:
            path = f"{name}[{key[:-1]}]" if name else key[:-1]
            raise Refusal(f"Missing required param: {path}.", param=path, code="parameter_missing")
    return {
        key: validated(value, allowed[key], f"{name}[{key}]" if name else key)
        for key, value in given.items()
    }
