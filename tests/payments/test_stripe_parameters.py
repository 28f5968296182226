"""Every request that is sent is one that Stripe documents: checked against the SDK's own types.

The SDK's parameter types are generated from Stripe's specification, but nothing looks at them while
a program runs. Made strict and closed, they are an oracle that knows every name and every kind.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter, ValidationError
from stripe import RequestOptions
from stripe.params import RefundCreateParams
from stripe.params.checkout import SessionCreateParams, SessionExpireParams, SessionListParams

from maitred.server.domain.currencies import CURRENCIES
from maitred.server.payments.stripe import StripeConfig, open_stripe, terms
from maitred.server.testing.fakestripe import FakeStripe, forms
from maitred.server.testing.providers import new_payment
from maitred.v1.common_pb2 import Money
from maitred.v1.state_pb2 import Payment

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CONFIG = StripeConfig(
    api_key="sk_test_1",
    success_url="https://house.example/thanks?paid={CHECKOUT_SESSION_ID}",
    cancel_url="https://house.example/back",
)


class _Anything:
    """Stands for `UntypedStripeObject[T]`: an object with any keys."""

    def __class_getitem__(cls, value: Any) -> Any:
        return dict[str, value]


def closed(kind: Any) -> Any:
    """Rebuild a type so that unknown keys and near enough values are refused, at every depth."""
    if typing_extensions.is_typeddict(kind):
        # Names that the SDK imports for type checkers only.
        names = {"Mapping": Mapping, "StripeContext": str, "UntypedStripeObject": _Anything}
        hints = typing_extensions.get_type_hints(kind, localns=names, include_extras=True)
        fields = {
            name: closed(hint)
            for name, hint in hints.items()
            if name not in RequestOptions.__annotations__
        }
        make: Any = typing_extensions.TypedDict
        made = make(kind.__name__, fields)
        made.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
        return made
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (typing_extensions.NotRequired, typing_extensions.Required):
        return origin[closed(inner[0])]
    if origin is list:
        return list[closed(inner[0])]  # type: ignore[misc]
    if origin in (Union, UnionType):
        return Union[tuple(closed(each) for each in inner)]  # noqa: UP007 - made while running
    return kind


SESSION: TypeAdapter[Any] = TypeAdapter(closed(SessionCreateParams))
REFUND: TypeAdapter[Any] = TypeAdapter(closed(RefundCreateParams))
LIST: TypeAdapter[Any] = TypeAdapter(closed(SessionListParams))
EXPIRE: TypeAdapter[Any] = TypeAdapter(closed(SessionExpireParams))


def asked(payment: Payment, config: StripeConfig = CONFIG) -> dict[str, Any]:
    """Read what Stripe would be sent for a payment."""
    found = json.loads(terms.parameters(payment, config))
    assert isinstance(found, dict)
    return found


def bill(tab: int, tip: int, credit: int, currency: str = "USD") -> Payment:
    """A payment of a tab and a tip, less a credit."""
    payment = Payment(
        payment_id="p1",
        session_id="s1",
        amount=Money(minor_units=tab + tip - credit, currency=currency),
        tab_amount=Money(minor_units=tab, currency=currency),
        tip_amount=Money(minor_units=tip, currency=currency),
        credit_applied=Money(minor_units=credit, currency=currency),
    )
    payment.expires_at.seconds = 1_767_229_200
    return payment


def lines(payment: Payment) -> list[tuple[str, int]]:
    """Read the lines of a checkout."""
    return [
        (each["price_data"]["product_data"]["name"], each["price_data"]["unit_amount"])
        for each in asked(payment)["line_items"]
    ]


def test_the_parameters_are_these_bytes() -> None:
    """A golden copy: they are stored with payments, and an upgrade must send the same."""
    metadata = '{"payment_id":"p1","session_id":"s1"}'
    line = (
        '{"price_data":{"currency":"usd","product_data":{"name":"%s"},"unit_amount":%d},'
        '"quantity":1}'
    )
    assert terms.parameters(bill(1300, 130, 0), CONFIG).decode() == (
        '{"adaptive_pricing":{"enabled":false},"cancel_url":"https://house.example/back",'
        '"client_reference_id":"p1","expires_at":1767229200,'
        f'"line_items":[{line % ("Tab", 1300)},{line % ("Tip", 130)}],"metadata":{metadata},'
        f'"mode":"payment","payment_intent_data":{{"metadata":{metadata}}},"submit_type":"pay",'
        '"success_url":"https://house.example/thanks?paid={CHECKOUT_SESSION_ID}"}'
    )


@pytest.mark.parametrize(
    ("tab", "tip", "credit", "expected"),
    [
        (1300, 130, 0, [("Tab", 1300), ("Tip", 130)]),
        (1300, 0, 0, [("Tab", 1300)]),
        (1300, 130, 300, [("Tab", 1000), ("Tip", 130)]),
        (1300, 130, 1300, [("Tip", 130)]),
        (1300, 130, 1330, [("Tip", 100)]),
    ],
)
def test_credit_lowers_the_tab_and_then_the_tip(
    tab: int, tip: int, credit: int, expected: list[tuple[str, int]]
) -> None:
    """Lines of nothing are left out: Stripe would show them."""
    assert lines(bill(tab, tip, credit)) == expected


@given(
    tab=st.integers(1, 10**8),
    tip=st.integers(0, 10**7),
    share=st.integers(0, 99),
    currency=st.sampled_from(sorted(CURRENCIES)),
    cancel_url=st.sampled_from(["", "https://house.example/back"]),
)
def test_every_bill_makes_a_legal_request_of_its_amount(
    tab: int, tip: int, share: int, currency: str, cancel_url: str
) -> None:
    """Whatever the tab, the tip, the credit and the currency."""
    payment = bill(tab, tip, (tab + tip) * share // 100, currency)
    config = StripeConfig(
        api_key="sk_test_1", success_url="https://house.example/thanks", cancel_url=cancel_url
    )
    found = asked(payment, config)
    prices = [each["price_data"] for each in found["line_items"]]

    SESSION.validate_python(found)
    assert sum(each["unit_amount"] for each in prices) == payment.amount.minor_units
    assert all(each["unit_amount"] > 0 for each in prices)
    assert {each["currency"] for each in prices} == {currency.lower()}
    assert ("cancel_url" in found) is bool(cancel_url)
    assert found["metadata"] == found["payment_intent_data"]["metadata"]


Spoil = Callable[[dict[str, Any]], object]

SPOILED: dict[str, Spoil] = {
    "a removed parameter": lambda it: it.update(payment_method_types=["card"]),
    "a typo": lambda it: it.update(sucess_url=it.pop("success_url")),
    "a typo within": lambda it: it["line_items"][0]["price_data"].update(unit_ammount=1),
    "a typo at the bottom": lambda it: it["line_items"][0]["price_data"]["product_data"].update(
        nmae="Tab"
    ),
    "a number as text": lambda it: it["line_items"][0]["price_data"].update(unit_amount="1300"),
    "a broken number": lambda it: it["line_items"][0]["price_data"].update(unit_amount=13.5),
    "no currency": lambda it: it["line_items"][0]["price_data"].pop("currency"),
    "metadata that is no text": lambda it: it["metadata"].update(payment_id=7),
    "an intent's own id": lambda it: it["payment_intent_data"].update(client_reference_id="p1"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_the_oracle_has_teeth(spoil: Spoil) -> None:
    """What Stripe would refuse, or silently ignore, is refused here."""
    good = asked(bill(1300, 130, 0))
    SESSION.validate_python(good)
    bad = copy.deepcopy(good)
    spoil(bad)

    with pytest.raises(ValidationError):
        SESSION.validate_python(bad)


@pytest.mark.parametrize(
    ("oracle", "bad"),
    [
        (REFUND, {"payment_intent": "pi_1", "amount": "500"}),
        (REFUND, {"payment_intent": "pi_1", "refund_id": "r1"}),
        (REFUND, {"payment_intent": "pi_1", "metadata": {"refund_id": 1}}),
        (LIST, {"created": {"since": 1}}),
        (LIST, {"client_reference_id": "p1"}),
        (EXPIRE, {"reason": "superseded"}),
    ],
)
def test_the_other_oracles_have_teeth(oracle: TypeAdapter[Any], bad: dict[str, Any]) -> None:
    """Also where an object is one of several kinds."""
    with pytest.raises(ValidationError):
        oracle.validate_python(bad)


@pytest.fixture
async def fake() -> AsyncIterator[FakeStripe]:
    """Run a Stripe of our own."""
    async with FakeStripe() as running:
        yield running


async def test_every_other_request_is_legal_too(fake: FakeStripe) -> None:
    """As it goes over the wire: refunds, lists, expiry."""
    provider = await open_stripe(fake.config())
    try:
        names = []
        for key in ("k1", "k2"):
            made = await provider.create(provider.parameters(new_payment(provider)), key)
            names.append(made.provider_payment_id)
        fake.account.pay(names[0])
        await provider.refund(names[0], "r1", 500, "r1")
        await provider.expire(names[1])
        await provider.find("p1", fake.account.clock.now_ns())
        await provider.probe()
        assert [each async for each in provider.completed(0)]
    finally:
        await provider.aclose()
    oracles = {
        "sessions.create": (SESSION, forms.SESSION),
        "sessions.expire": (EXPIRE, forms.ONLY_EXPAND),
        "sessions.list": (LIST, forms.SESSIONS),
        "refunds.create": (REFUND, forms.REFUND),
    }

    assert oracles.keys() <= {each.operation for each in fake.seen}
    for seen in fake.seen:
        if seen.operation in oracles:
            oracle, rules = oracles[seen.operation]
            oracle.validate_python(forms.validated(seen.form, rules))


@pytest.mark.parametrize("currency", sorted(CURRENCIES))
def test_a_link_lives_as_long_as_stripe_lets_it(currency: str) -> None:
    """Half an hour to a day, with room for two clocks and a slow line."""
    limits = terms.limits(currency)

    assert 0 < limits.minimum < limits.maximum
    assert (limits.lifetime_min_s, limits.lifetime_max_s) == (35 * 60, 24 * 3600 - 300)
