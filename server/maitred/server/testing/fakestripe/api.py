"""The endpoints: validation, effects, pages and expansion, as Stripe has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maitred.server.testing.fakestripe import forms
from maitred.server.testing.fakestripe.account import Account, NotPossible, Object, public
from maitred.server.testing.fakestripe.forms import Refusal, Rule

MINIMA = {"usd": 50, "eur": 50, "gbp": 30, "jpy": 50}
MAXIMUM = 99_999_999
LIFETIME_S = (30 * 60, 24 * 3600)
DEEPEST = 4
PAGE = 10

LINKS = frozenset({"charge", "latest_charge", "payment_intent"})
"""Fields that hold the id of another object."""

RULES: Mapping[str, dict[str, Rule]] = {
    "sessions.create": forms.SESSION,
    "sessions.list": forms.SESSIONS,
    "refunds.create": forms.REFUND,
    "refunds.list": forms.REFUNDS,
    "disputes.list": forms.REFUNDS,
}
"""The parameters of each endpoint; the others take only `expand`."""


class Api:
    """Answers the requests of one account."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.base_url = ""
        self._effects: Mapping[str, Callable[[str, dict[str, Any]], Object]] = {
            "sessions.create": self._create_session,
            "sessions.expire": self._expire_session,
            "sessions.list": self._list_sessions,
            "refunds.create": self._create_refund,
            "refunds.list": self._list_refunds,
            "disputes.list": self._list_disputes,
        }

    def check(self, operation: str, form: Mapping[str, Any]) -> dict[str, Any]:
        """Validate the parameters of a request. Raises: Refusal."""
        rules = RULES.get(operation, forms.ONLY_EXPAND)
        asked: dict[str, Any] = forms.validated(form, rules)
        is_list = operation.endswith(".list")
        for path in asked.get("expand", []):
            depth = path.split(".")
            if len(depth) > DEEPEST:
                raise Refusal(f"You cannot expand more than {DEEPEST} levels", param="expand")
            if is_list and depth[0] != "data":
                raise Refusal(f"This property cannot be expanded ({path}).", param="expand")
        if operation == "sessions.create":
            self._check_session(asked)
        return asked

    def answer(self, operation: str, name: str, asked: dict[str, Any]) -> Object:
        """Carry out a request that was validated. Raises: Refusal."""
        effect = self._effects.get(operation, self._retrieve)
        made = effect(name, asked)
        paths = [path.split(".") for path in asked.get("expand", [])]
        for path in paths:
            self._expand(made, path)
        return made

    # --- sessions ---------------------------------------------------------------------------------

    def _check_session(self, asked: Mapping[str, Any]) -> None:
        if asked["mode"] != "payment":
            raise Refusal("only payments are sold here", param="mode")
        if not asked["line_items"]:
            raise Refusal("line_items is empty", param="line_items", code="parameter_missing")
        prices = [each["price_data"] for each in asked["line_items"]]
        currencies = {each["currency"] for each in prices}
        if len(currencies) != 1 or not all(each.islower() for each in currencies):
            raise Refusal(
                "All line items must have one currency, in lower case", param="line_items"
            )
        if any(each["unit_amount"] < 0 for each in prices):
            raise Refusal("Invalid non-negative integer", code="parameter_invalid_integer")
        total = sum(
            each["price_data"]["unit_amount"] * each["quantity"] for each in asked["line_items"]
        )
        if total < MINIMA.get(next(iter(currencies)), 1):
            raise Refusal("The total amount due is too small", code="amount_too_small")
        if total > MAXIMUM:
            raise Refusal("The total amount due is too large", code="amount_too_large")
        life = asked.get("expires_at", self.account.now_s() + 3600) - self.account.now_s()
        if life < LIFETIME_S[0]:
            raise Refusal(
                "The `expires_at` timestamp must be at least 30 minutes from now",
                param="expires_at",
            )
        if life > LIFETIME_S[1]:
            raise Refusal(
                "The `expires_at` timestamp must be less than 24 hours from now",
                param="expires_at",
            )
        if not asked["success_url"].startswith(("http://", "https://")):
            raise Refusal("Not a valid URL", param="success_url", code="url_invalid")

    def _create_session(self, _name: str, asked: dict[str, Any]) -> Object:
        return public(self.account.add_session(asked, self.base_url))

    def _expire_session(self, name: str, _asked: dict[str, Any]) -> Object:
        self._found(name, "cs")
        try:
            return public(self.account.expire(name))
        except NotPossible:
            raise Refusal(
                'Only Checkout Sessions with a status in ["open"] can be expired.'
            ) from None

    def _list_sessions(self, _name: str, asked: dict[str, Any]) -> Object:
        found = [
            each
            for each in self.account.all("cs")
            if _within(each, asked)
            and asked.get("status") in (None, each["status"])
            and asked.get("payment_intent") in (None, each["payment_intent"])
        ]
        return _page("/v1/checkout/sessions", found, asked)

    # --- refunds and everything else --------------------------------------------------------------

    def _create_refund(self, _name: str, asked: dict[str, Any]) -> Object:
        intent = self._found(asked.get("payment_intent", ""), "pi")
        charge = self.account.tables["ch"].get(intent["latest_charge"] or "", {})
        if intent["status"] != "succeeded":
            raise Refusal("This PaymentIntent does not have a successful charge to refund.")
        left = charge["amount"] - charge["amount_refunded"]
        amount = asked.get("amount", left)
        if not left:
            raise Refusal("The charge has been refunded.", code="charge_already_refunded")
        if not 0 < amount <= left:
            raise Refusal("The refund is greater than what is left", param="amount")
        return public(self.account.add_refund(intent, amount, asked.get("metadata", {})))

    def _list_refunds(self, _name: str, asked: dict[str, Any]) -> Object:
        return _page("/v1/refunds", self._of_charge("re", asked), asked)

    def _list_disputes(self, _name: str, asked: dict[str, Any]) -> Object:
        return _page("/v1/disputes", self._of_charge("dp", asked), asked)

    def _of_charge(self, table: str, asked: dict[str, Any]) -> list[Object]:
        return [
            each
            for each in self.account.all(table)
            if _within(each, asked)
            and asked.get("charge") in (None, each["charge"])
            and asked.get("payment_intent") in (None, each["payment_intent"])
        ]

    def _retrieve(self, name: str, _asked: dict[str, Any]) -> Object:
        return public(self._found(name, ""))

    def _found(self, name: str, kind: str) -> Object:
        found = self.account.get(name)
        if found is None or not name.startswith(kind):
            raise Refusal(f"No such object: '{name}'", status=404, code="resource_missing")
        return found

    def _expand(self, place: Object, path: list[str]) -> None:
        field, rest = path[0], path[1:]
        if field == "data":
            for each in place["data"]:
                if rest:
                    self._expand(each, rest)
            return
        if field == "refunds" and place.get("object") == "charge":
            refunds = self.account.refunds_of(place["id"])
            url = f"/v1/charges/{place['id']}/refunds"
            place.setdefault("refunds", _page(url, refunds, {}))
            return
        if field not in LINKS or field not in place:
            raise Refusal(f"This property cannot be expanded ({field}).", param="expand")
        if isinstance(place[field], str):
            place[field] = public(self.account.table(place[field])[place[field]])
        if rest and place[field] is not None:
            self._expand(place[field], rest)


def _within(given: Object, asked: Mapping[str, Any]) -> bool:
    created: int = given["created"]
    bounds: Mapping[str, int] = asked.get("created", {})
    if not bounds.get("gte", created) <= created <= bounds.get("lte", created):
        return False
    return bounds.get("gt", created - 1) < created < bounds.get("lt", created + 1)


def _page(url: str, found: list[Object], asked: Mapping[str, Any]) -> Object:
    limit = asked.get("limit", PAGE)
    if not 1 <= limit <= 100:
        raise Refusal("limit must be between 1 and 100", param="limit")
    after = asked.get("starting_after")
    if after is not None:
        names = [each["id"] for each in found]
        if after not in names:
            raise Refusal(f"No such object: '{after}'", param="starting_after")
        found = found[names.index(after) + 1 :]
    return {
        "object": "list",
        "data": [public(each) for each in found[:limit]],
        "has_more": len(found) > limit,
        "url": url,
    }
