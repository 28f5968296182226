"""Messages from outside: believed only when signed, in time, and about a payment of this house."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.engine.clock import ManualClock
from maitred.server.payments.provider import BadNotice, Notice
from maitred.server.payments.stripe import StripeConfig, StripeProvider, open_stripe
from maitred.server.testing.fakestripe import FakeStripe

CLOCK = ManualClock()
NOW_S = CLOCK.now_ns() // 10**9
OLD, NEW, THIRD = "whsec_the_older_secret", "whsec_the_newer_secret", "whsec_somebody_elses"
FAKE = FakeStripe(clock=CLOCK, webhook_secret=NEW)
"""Not listening: it only signs."""

CONFIG = StripeConfig(
    api_key="sk_test_1",
    webhook_secrets=(OLD, NEW),
    success_url="https://house.example/thanks",
    account="acct_ours",
    clock=CLOCK,
)

SESSION = {
    "id": "cs_test_1",
    "object": "checkout.session",
    "client_reference_id": "p1",
    "metadata": {"payment_id": "p1", "session_id": "s1"},
    "mode": "payment",
    "payment_intent": "pi_1",
}


def event(kind: str = "checkout.session.completed", **changed: Any) -> dict[str, Any]:
    """Make a snapshot event; `about` is its object."""
    made = {
        "id": "evt_1",
        "object": "event",
        "created": NOW_S,
        "data": {"object": changed.pop("about", SESSION)},
        "livemode": False,
        "type": kind,
    }
    return {**made, **changed}


def thin(kind: str = "v1.checkout.session.completed", **changed: Any) -> dict[str, Any]:
    """Make a thin event."""
    made = {
        "id": "evt_1",
        "object": "v2.core.event",
        "created": "2026-01-01T00:00:00.000Z",
        "livemode": False,
        "related_object": {"id": "cs_test_1", "type": "checkout.session", "url": "/v1/x"},
        "type": kind,
    }
    return {**made, **changed}


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[StripeProvider]:
    """Open one provider; reading needs no connection."""
    provider = await open_stripe(CONFIG)
    yield provider
    await provider.aclose()


def read(provider: StripeProvider, message: Any, **how: Any) -> Notice:
    """Sign a message, given as bytes or as what is to become JSON, and read it."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return provider.read_notice(body, FAKE.sign(body, **how))


async def test_a_snapshot_says_whose_payment_it_is(provider: StripeProvider) -> None:
    """The reference is the session; our id and the time are read along."""
    assert read(provider, event()) == Notice(
        event_id="evt_1",
        kind="checkout.session.completed",
        reference="cs_test_1",
        payment_id="p1",
        created_ns=NOW_S * 10**9,
    )


async def test_a_thin_event_says_where_to_look(provider: StripeProvider) -> None:
    """It holds no id of ours."""
    assert read(provider, thin()) == Notice(
        event_id="evt_1",
        kind="v1.checkout.session.completed",
        reference="cs_test_1",
        created_ns=CLOCK.now_ns(),
    )


@pytest.mark.parametrize(
    ("kind", "about", "reference"),
    [
        ("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"}, "pi_1"),
        ("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": "pi_1"}, "pi_1"),
        ("charge.succeeded", {"id": "py_1", "object": "charge", "payment_intent": None}, "py_1"),
        ("refund.failed", {"id": "re_1", "object": "refund", "payment_intent": "pi_1"}, "pi_1"),
        ("refund.updated", {"id": "re_1", "payment_intent": {"id": "pi_1"}}, "pi_1"),
        ("charge.dispute.created", {"id": "dp_1", "payment_intent": "pi_1"}, "pi_1"),
        ("checkout.session.new_kind", {"id": "cs_1", "object": "checkout.session"}, "cs_1"),
    ],
)
async def test_every_event_of_a_payment_leads_to_it(
    provider: StripeProvider, kind: str, about: dict[str, Any], reference: str
) -> None:
    """By the intent where one is named, else by the object itself; also kinds that are new."""
    notice = read(provider, event(kind, about=about))

    assert (notice.reference, notice.foreign) == (reference, "")


async def test_our_id_is_read_from_either_place(provider: StripeProvider) -> None:
    """Intents carry it in their metadata; what cannot be ours is left out."""
    intent = {"id": "pi_1", "object": "payment_intent", "metadata": {"payment_id": "p2"}}
    other = {**SESSION, "client_reference_id": "order no. 7 \ud800"}

    assert read(provider, event("payment_intent.created", about=intent)).payment_id == "p2"
    assert read(provider, event(about=other)).payment_id == ""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (event(livemode=True), "other mode"),
        (event(account="acct_another"), "other account"),
        (thin(context="acct_another"), "other account"),
        (event(account="acct_ours"), ""),
        (event("payout.paid", about={"id": "po_1", "object": "payout"}), "unrelated event"),
        (event(about={**SESSION, "mode": "subscription"}), "unrelated event"),
        (thin("v2.core.account.updated"), "unrelated event"),
    ],
)
async def test_what_is_not_for_this_server_says_why(
    provider: StripeProvider, message: dict[str, Any], reason: str
) -> None:
    """It is signed and may be acknowledged, but nothing is to be done."""
    notice = read(provider, message)

    assert notice.foreign == reason
    assert (notice.reference == "") is (reason == "unrelated event")


async def test_a_message_without_an_id_is_known_by_its_bytes(provider: StripeProvider) -> None:
    """Some doubles give none; a delivery that is repeated still has the same one."""
    nameless = event()
    del nameless["id"]
    first, second = read(provider, nameless), read(provider, {**nameless, "created": 1})

    assert first == read(provider, nameless)
    assert len({first.event_id, second.event_id, ""}) == 3


async def test_either_secret_is_accepted_while_one_is_rotated(provider: StripeProvider) -> None:
    """The older, the newer, and both signatures in one header; a third never."""
    body = json.dumps(event()).encode()
    both = f"{FAKE.sign(body, secret=THIRD)},{FAKE.sign(body, secret=OLD).partition(',')[2]}"

    assert read(provider, body, secret=OLD) == read(provider, body, secret=NEW)
    assert provider.read_notice(body, both).event_id == "evt_1"
    with pytest.raises(BadNotice, match="not signed"):
        read(provider, body, secret=THIRD)


@pytest.mark.parametrize(
    ("age_s", "is_read"), [(0, True), (300, True), (301, False), (-301, False)]
)
async def test_a_message_has_its_time(provider: StripeProvider, age_s: int, is_read: bool) -> None:
    """What was caught once cannot be sent for ever, and what claims to come from later never."""
    if is_read:
        assert read(provider, event(), at_s=NOW_S - age_s)
    else:
        with pytest.raises(BadNotice, match="signed"):
            read(provider, event(), at_s=NOW_S - age_s)


OLD_S = NOW_S - 4000


@pytest.mark.parametrize(
    "forged",
    [
        f"{{signed}},t={NOW_S}",
        f"t={NOW_S},{{signed}}",
        f"t= {OLD_S},{{rest}},t={NOW_S}",
        f"t=+{OLD_S},{{rest}},t={NOW_S}",
        f"t={OLD_S}=1,{{rest}},t={NOW_S}",
        f"t={str(OLD_S)[0]}_{str(OLD_S)[1:]},{{rest}},t={NOW_S}",
        f"t= {OLD_S},{{rest}}",
        f" t={NOW_S},{{signed}}",
    ],
)
async def test_an_old_message_is_not_made_young(provider: StripeProvider, forged: str) -> None:
    """The time that is checked is the one that was signed, however the header is written."""
    body = json.dumps(event()).encode()
    signed = FAKE.sign(body, at_s=OLD_S)
    header = forged.format(signed=signed, rest=signed.partition(",")[2])

    with pytest.raises(BadNotice):
        provider.read_notice(body, header)


async def test_without_secrets_nothing_is_believed() -> None:
    """An empty secret is refused, and none accepts nothing."""
    given = {"api_key": "sk_test_1", "success_url": "https://house.example/thanks", "clock": CLOCK}
    provider = await open_stripe(StripeConfig(**given))  # type: ignore[arg-type]
    try:
        with pytest.raises(BadNotice):
            read(provider, event())
    finally:
        await provider.aclose()
    with pytest.raises(ValueError, match="secret is empty"):
        StripeConfig(**given, webhook_secrets=(" ",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance"):
        StripeConfig(**given, tolerance_s=0)  # type: ignore[arg-type]


UNUSABLE: list[Any] = [
    b"",
    b"not JSON",
    b"\xff\xfe",
    b"[" * 100_000,
    b"9" * 5000,
    [],
    [event()],
    "text",
    7,
    None,
    {},
    {"object": "event"},
    {"object": ["event"], "type": "charge.updated"},
    event(type=None),
    event(type="x" * 300),
    event(type="charge.\n"),
    event(id=7),
    event(id="evt_\ud800"),
    event(created="yesterday"),
    event(created=10**30),
    event(created=True),
    event(about={"id": ["cs_1"], "object": "checkout.session"}),
    event("charge.updated", about={"id": "ch_1", "payment_intent": "pi_1/../x"}),
    thin(related_object={"id": {"id": "cs_1"}}),
]


@pytest.mark.parametrize("message", UNUSABLE)
async def test_what_is_signed_and_malformed_is_refused(
    provider: StripeProvider, message: Any
) -> None:
    """A signature is no promise of sense: one kind of error for every kind of nonsense."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    try:
        signature = FAKE.sign(body)
    except UnicodeDecodeError:
        signature = FAKE.sign(b"x")

    with pytest.raises(BadNotice):
        provider.read_notice(body, signature)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "t",
        "t=",
        "v1=00",
        "t=1",
        "t=x,v1=00",
        "t=1,v1=é",
        "t=1,v1=\ud800",
        f"t={'9' * 5000},v1=0",
    ],
)
async def test_signatures_of_no_known_shape_are_refused(
    provider: StripeProvider, signature: str
) -> None:
    """Whatever stands in the header."""
    with pytest.raises(BadNotice):
        provider.read_notice(b"{}", signature)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    "id object type created livemode account context data related_object".split()
)
ABOUT = st.dictionaries(
    st.sampled_from("id object mode payment_intent metadata client_reference_id".split()), JSON
)


def attempt(provider: StripeProvider, body: bytes, signature: str) -> None:
    """Read; anything but a notice or BadNotice fails the test."""
    try:
        notice = provider.read_notice(body, signature)
    except BadNotice:
        return
    # What comes out can be stored: it is plain text.
    assert "".join(map(str, notice)).isascii()
    assert 0 <= notice.created_ns < 1 << 63


@given(body=st.binary(), signature=st.text())
async def test_only_bad_notice_ever_escapes_from_bytes(
    provider: StripeProvider, body: bytes, signature: str
) -> None:
    """Unsigned bytes of any kind."""
    attempt(provider, body, signature)


@given(base=st.sampled_from([event, thin]), changed=st.dictionaries(FIELDS, JSON), about=ABOUT)
async def test_only_bad_notice_ever_escapes_from_signed_messages(
    provider: StripeProvider, base: Any, changed: dict[str, Any], about: dict[str, Any]
) -> None:
    """Signed messages of which any part may be anything."""
    message = base(**changed)
    data = message.get("data")
    if isinstance(data, dict) and about:
        message["data"] = {"object": about}
    body = json.dumps(message).encode()
    attempt(provider, body, FAKE.sign(body))
