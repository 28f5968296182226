"""Turns, phases and context."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.domain import conversations
from maitred.server.errors import CardNumberRefused, InvalidField
from maitred.v1.conversation_pb2 import NewMessage, RecordTurnRequest, UpdateContextRequest
from maitred.v1.state_pb2 import (
    MESSAGE_ROLE_ASSISTANT,
    MESSAGE_ROLE_USER,
    PHASE_GREETING,
    PHASE_ORDER_TAKING,
    PHASE_REORDER_PROMPT,
    PHASE_SMALL_TALK,
    PHASE_UNSPECIFIED,
    InboundMessage,
    IntentList,
    Phase,
)


def turn(log: Any, *texts: str) -> Any:
    """Record a turn and answer the conversation after it."""
    messages = [NewMessage(role=MESSAGE_ROLE_USER, text=text) for text in texts or ("hi",)]
    log.apply(conversations.record_turn(log.session, RecordTurnRequest(messages=messages)))
    return log.session.conversation


def order(log: Any) -> None:
    """Order a glass of water."""
    log.add("Water")
    log.place()


def test_the_first_turn_leads_to_order_taking(log: Any) -> None:
    """Greeting → order taking."""
    assert turn(log).phase == PHASE_ORDER_TAKING


def test_the_first_turn_leads_to_order_taking_whatever_happened_in_it(log: Any) -> None:
    """An order placed in the first turn is remembered, and does not skip order taking."""
    order(log)

    after = turn(log)

    assert (after.phase, after.last_order_turn) == (PHASE_ORDER_TAKING, 1)
    assert not after.order_placed_since_turn


def test_the_trace_of_the_phases(log: Any) -> None:
    """Order at turn 3, four turns of small talk, then the prompt, then small talk anew."""
    trace = []
    for number in range(1, 9):
        if number == 3:
            order(log)
        after = turn(log)
        trace.append((after.phase, after.small_talk_count))

    assert trace == [
        (PHASE_ORDER_TAKING, 0),
        (PHASE_ORDER_TAKING, 0),
        (PHASE_SMALL_TALK, 0),
        (PHASE_SMALL_TALK, 1),
        (PHASE_SMALL_TALK, 2),
        (PHASE_SMALL_TALK, 3),
        (PHASE_REORDER_PROMPT, 4),
        (PHASE_SMALL_TALK, 0),
    ]
    assert log.session.conversation.last_order_turn == 3


def test_the_prompt_comes_again_after_four_more_turns(log: Any) -> None:
    """The count starts anew after the prompt, instead of flipping every turn."""
    turn(log)
    order(log)
    phases = [turn(log).phase for _ in range(11)]

    assert [at for at, phase in enumerate(phases) if phase == PHASE_REORDER_PROMPT] == [4, 9]


def test_adding_and_placing_never_change_the_phase(log: Any) -> None:
    """Only a turn moves the phase."""
    turn(log)
    order(log)

    assert log.session.conversation.phase == PHASE_ORDER_TAKING
    assert log.session.conversation.order_placed_since_turn


def test_an_order_counts_for_one_turn(log: Any) -> None:
    """The flag is consumed by the turn, not sticky."""
    turn(log)
    order(log)
    turn(log)

    assert turn(log).small_talk_count == 1


def test_a_turn_touches_no_money(log: Any) -> None:
    """A turn, the first one too, leaves balance, tab and order as they are."""
    log.add("Martini")
    before = (log.session.payment, log.session.order, log.session.ledger)
    turn(log)

    assert before == (log.session.payment, log.session.order, log.session.ledger)


def test_a_turn_states_where_it_came_from_and_where_it_led(log: Any) -> None:
    """The event carries phase and counts before and after, and the messages in order."""
    request = RecordTurnRequest(
        messages=[
            NewMessage(role=MESSAGE_ROLE_USER, text="a\x00b 4242424242424242"),
            NewMessage(role=MESSAGE_ROLE_ASSISTANT, text="sure\n", name="Maya"),
        ]
    )

    event = log.apply(conversations.record_turn(log.session, request)).turn_recorded

    assert (event.phase_from, event.phase_to) == (PHASE_GREETING, PHASE_ORDER_TAKING)
    assert [(m.turn, m.text, m.name, m.card_masked) for m in event.messages] == [
        (1, "ab ************4242", "", True),
        (1, "sure\n", "Maya", False),
    ]


def test_messages_are_read_with_the_time_of_their_turn(log: Any) -> None:
    """The time is the event's; what is stored has none of its own."""
    turn(log, "one", "two")

    messages = conversations.messages_of(log.events[-1])

    assert [m.text for m in messages] == ["one", "two"]
    assert all(m.time == log.events[-1].time for m in messages)
    assert not log.events[-1].turn_recorded.messages[0].HasField("time")
    assert conversations.messages_of(log.events[0]) == []


def test_a_card_in_a_name_is_refused(log: Any) -> None:
    """Only the text of a message is masked."""
    request = RecordTurnRequest(
        messages=[NewMessage(role=MESSAGE_ROLE_USER, name="4242424242424242")]
    )

    with pytest.raises(CardNumberRefused):
        conversations.record_turn(log.session, request)


def test_an_inbound_address_may_look_like_a_card(log: Any) -> None:
    """A phone number is no card, yet a control character in it is refused."""
    inbound = InboundMessage(
        channel_type="whatsapp", channel_identifier="4222222222222", message_id="wamid.1"
    )
    request = RecordTurnRequest(messages=[NewMessage(role=MESSAGE_ROLE_USER)], inbound=inbound)

    event = conversations.record_turn(log.session, request)

    assert event.turn_recorded.inbound == inbound
    request.inbound.message_id = "a\u202eb"
    with pytest.raises(InvalidField):
        conversations.record_turn(log.session, request)


@given(
    st.sampled_from(Phase.values()),
    st.integers(0, 4),
    st.booleans(),
)
def test_every_step_is_one_of_the_table(phase: Any, count: int, placed: bool) -> None:
    """No illegal phase can be reached, and the count stays between 0 and 4."""
    step = conversations.next_step(phase, count, placed)

    allowed = {
        PHASE_GREETING: {PHASE_ORDER_TAKING},
        PHASE_ORDER_TAKING: {PHASE_ORDER_TAKING, PHASE_SMALL_TALK},
        PHASE_SMALL_TALK: {PHASE_SMALL_TALK, PHASE_REORDER_PROMPT},
        PHASE_REORDER_PROMPT: {PHASE_SMALL_TALK},
        PHASE_UNSPECIFIED: {PHASE_SMALL_TALK},
    }
    assert step.phase in allowed[phase]
    assert 0 <= step.small_talk_count <= 5
    if placed and phase != PHASE_GREETING:
        assert step == (PHASE_SMALL_TALK, 0)


@given(st.lists(st.booleans(), max_size=40))
def test_the_prompt_follows_four_turns_of_small_talk(new_log: Any, placed: list[bool]) -> None:
    """Whatever the guest does, the prompt comes at the fourth turn without an order."""
    log = new_log()
    quiet = 0
    for orders in placed:
        if orders:
            order(log)
        before = log.session.conversation.phase
        after = turn(log)
        quiet = quiet + 1 if before == PHASE_SMALL_TALK and not orders else 0

        assert (after.phase == PHASE_REORDER_PROMPT) == (quiet == 4)
        assert after.turn_count == log.session.conversation.turn_count


def entities(**values: Any) -> Struct:
    """Entities of a context."""
    made = Struct()
    made.update(values)
    return made


def test_context_is_replaced_in_parts(log: Any) -> None:
    """What the request does not name stays; removal comes after setting."""
    log.apply(
        conversations.update_context(
            log.session,
            UpdateContextRequest(
                topic="drinks",
                intents=IntentList(intents=["order"]),
                entities=entities(table=7, name="Ada"),
            ),
        )
    )
    log.apply(
        conversations.update_context(
            log.session,
            UpdateContextRequest(
                topic="", entities=entities(size="large"), remove_entities=["name", "nobody"]
            ),
        )
    )

    after = log.session.conversation.context
    assert after.topic == ""
    assert list(after.intents) == ["order"]
    assert after.entities == entities(table=7, size="large")


def test_an_empty_list_of_intents_clears_them(log: Any) -> None:
    """An empty list is told from none."""
    for intents in (["a", "b"], []):
        request = UpdateContextRequest(intents=IntentList(intents=intents))
        log.apply(conversations.update_context(log.session, request))

    assert list(log.session.conversation.context.intents) == []


def test_a_context_that_stays_is_no_event(log: Any) -> None:
    """No change, no event."""
    request = UpdateContextRequest(topic="x", entities=entities(a=1))
    log.apply(conversations.update_context(log.session, request))

    assert conversations.update_context(log.session, request) is None
    assert conversations.update_context(log.session, UpdateContextRequest()) is None


@pytest.mark.parametrize(
    "request_",
    [
        UpdateContextRequest(entities=entities(**{f"k{n}": n for n in range(65)})),
        UpdateContextRequest(entities=entities(big="x" * 17_000)),
    ],
)
def test_a_context_is_bounded(log: Any, request_: UpdateContextRequest) -> None:
    """At most 64 entities and 16 KiB."""
    with pytest.raises(InvalidField):
        conversations.update_context(log.session, request_)


def test_reset_phase_keeps_the_context(log: Any) -> None:
    """Phase and counters start anew; the context and the money stay; again, it is no event."""
    log.apply(conversations.update_context(log.session, UpdateContextRequest(topic="x")))
    turn(log)
    order(log)
    log.apply(conversations.reset_phase(log.session))

    after = log.session.conversation
    assert (after.phase, after.turn_count, after.context.topic) == (PHASE_GREETING, 0, "x")
    assert not after.order_placed_since_turn
    assert log.tab == 100
    assert conversations.reset_phase(log.session) is None
