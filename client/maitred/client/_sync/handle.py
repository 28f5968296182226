# generated: edit _async and run scripts/unasync.py
"""The session handle: the client's methods for one session, which remembers its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from maitred.client._context import enter, leave
from maitred.client._money import optional_money
from maitred.client._options import Mutation
from maitred.client._request_ids import TurnIds
from maitred.client._sync.handle_payments import HandlePayments
from maitred.client._sync.pages import Pager
from maitred.client._sync.watches import SessionWatch
from maitred.v1.common_pb2 import Money
from maitred.v1.conversation_pb2 import NewMessage
from maitred.v1.event_pb2 import Event
from maitred.v1.session_pb2 import WatchMode
from maitred.v1.state_pb2 import (
    Conversation,
    InboundMessage,
    Message,
    Order,
    OrderLine,
    Session,
)


class SessionHandle(HandlePayments):
    """One session.

    Every command sends the reset count last seen, so that what was decided before a reset is
    refused after it. `with handle:` makes it the current session of the thread or task.
    """

    def __enter__(self) -> Self:
        enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave()

    def turn(self, turn_id: str) -> SessionHandle:
        """Make a handle for one run of a turn; run again, the turn repeats nothing."""
        client = self._client._replaced(request_ids=TurnIds(turn_id))
        return SessionHandle(client, self.session_id, self._seen, new_visit=self.new_visit)

    def refresh(self) -> Session:
        """Read the session as it is now."""
        state = self._client.get_session(session_id=self.session_id)
        self._seen.see(state)
        return state

    def add_item(
        self,
        item: str,
        *,
        quantity: int = 1,
        modifiers: Sequence[str] = (),
        note: str = "",
        open_price: Money | int | None = None,
        **options: Unpack[Mutation],
    ) -> OrderLine:
        """Add a line at the menu's price, and charge it to the balance and the tab.

        Raises: ItemNotFound, ItemAmbiguous, ItemSoldOut, ModifierNotFound, ModifierAmbiguous,
        InsufficientFunds, InvalidQuantity.
        """
        answer = self._client.add_item(
            session_id=self.session_id,
            item=item,
            quantity=quantity,
            modifiers=modifiers,
            note=note,
            open_price=optional_money(open_price, self._currency()),
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.line

    def remove_item(
        self, line_number: int, *, quantity: int | None = None, **options: Unpack[Mutation]
    ) -> OrderLine | None:
        """Take a line, or a part of it, off the open order; what is left of it, or None.

        Raises: LineNotFound, OrderLinePaid, InvalidQuantity.
        """
        answer = self._client.remove_item(
            session_id=self.session_id,
            line_number=line_number,
            quantity=quantity,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.line if answer.HasField("line") else None

    def place_order(self, **options: Unpack[Mutation]) -> Order:
        """Send the open order to the kitchen.

        Raises: OrderEmpty.
        """
        answer = self._client.place_order(session_id=self.session_id, **self._fenced(options))
        self._seen.see(answer.session)
        return answer.order

    def clear_order(self, **options: Unpack[Mutation]) -> Session:
        """Empty the open order and give its price back."""
        answer = self._client.clear_order(session_id=self.session_id, **self._fenced(options))
        self._seen.see(answer.session)
        return answer.session

    def void_line(
        self,
        order_number: int,
        line_number: int,
        *,
        reason: str,
        quantity: int | None = None,
        **options: Unpack[Mutation],
    ) -> Order:
        """Take a line, or a part of it, off a placed order; staff only.

        Raises: OrderNotFound, LineNotFound, OrderLinePaid, InvalidQuantity.
        """
        answer = self._client.void_line(
            session_id=self.session_id,
            order_number=order_number,
            line_number=line_number,
            quantity=quantity,
            reason=reason,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.order

    def list_orders(self, *, page_size: int = 0) -> Pager[Order]:
        """List the orders, newest first, the open one included."""
        return self._client.list_orders(session_id=self.session_id, page_size=page_size)

    def record_turn(
        self,
        messages: Sequence[NewMessage],
        *,
        inbound: InboundMessage | None = None,
        **options: Unpack[Mutation],
    ) -> Conversation:
        """Close a turn: store its messages and move the phase on.

        Raises: InboundMessageTaken.
        """
        answer = self._client.record_turn(
            session_id=self.session_id,
            messages=messages,
            inbound=inbound,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.session.conversation

    def list_messages(self, *, newest_first: bool = False, page_size: int = 0) -> Pager[Message]:
        """Read what was said."""
        return self._client.list_messages(
            session_id=self.session_id, newest_first=newest_first, page_size=page_size
        )

    def update_context(
        self,
        *,
        topic: str | None = None,
        intents: Sequence[str] | None = None,
        entities: Mapping[str, Any] | None = None,
        remove_entities: Sequence[str] = (),
        **options: Unpack[Mutation],
    ) -> Conversation:
        """Change what the agent remembers: topic and intents whole, entities one by one."""
        answer = self._client.update_context(
            session_id=self.session_id,
            topic=topic,
            intents=intents,
            entities=entities,
            remove_entities=remove_entities,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.session.conversation

    def reset_phase(self, **options: Unpack[Mutation]) -> Conversation:
        """Put the phase back to greeting and the counters to zero."""
        answer = self._client.reset_phase(session_id=self.session_id, **self._fenced(options))
        self._seen.see(answer.session)
        return answer.session.conversation

    def update(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        customer_id: str | None = None,
        remove_labels: Sequence[str] = (),
        remove_attributes: Sequence[str] = (),
        update_mask: Sequence[str] = (),
        **options: Unpack[Mutation],
    ) -> Session:
        """Set and remove labels and attributes one by one; set the customer, or clear it by "".

        What `update_mask` names of "labels", "attributes" and "customer_id" is replaced whole.
        """
        answer = self._client.update_session(
            session_id=self.session_id,
            labels=labels,
            attributes=attributes,
            customer_id=customer_id,
            remove_labels=remove_labels,
            remove_attributes=remove_attributes,
            update_mask=update_mask,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.session

    def extend(self, *, idle_seconds: int = 0, **options: Unpack[Mutation]) -> Session:
        """Count the idle time anew, or set how long it may be."""
        answer = self._client.extend_session(
            session_id=self.session_id, idle_seconds=idle_seconds, **self._fenced(options)
        )
        self._seen.see(answer.session)
        return answer.session

    def reset(self, *, reason: str = "", **options: Unpack[Mutation]) -> Session:
        """Restore the defaults of the session.

        Raises: TabOpen, ReasonRequired, PaymentOpen.
        """
        answer = self._client.reset_session(
            session_id=self.session_id, reason=reason, **self._fenced(options)
        )
        self._seen.see(answer.session)
        return answer.session

    def close(self, *, reason: str = "", **options: Unpack[Mutation]) -> Session:
        """End the session; the handle needs no closing.

        Raises: TabOpen, ReasonRequired, PaymentOpen.
        """
        answer = self._client.close_session(
            session_id=self.session_id, reason=reason, **self._fenced(options)
        )
        self._seen.see(answer.session)
        return answer.session

    def delete(self, *, reason: str, **options: Unpack[Mutation]) -> None:
        """Erase the session; its id never comes back.

        Raises: TabOpen, PaymentOpen.
        """
        self._client.delete_session(
            session_id=self.session_id, reason=reason, **self._fenced(options)
        )

    def list_events(
        self, *, after_version: int = 0, changes: Sequence[str] = (), page_size: int = 0
    ) -> Pager[Event]:
        """Read the log in order."""
        return self._client.list_events(
            session_id=self.session_id,
            after_version=after_version,
            changes=changes,
            page_size=page_size,
        )

    def watch(
        self,
        *,
        after_version: int | None = None,
        resume_token: bytes = b"",
        mode: WatchMode.ValueType = WatchMode.WATCH_MODE_EVERY_EVENT,
        timeout: float | None = None,
    ) -> SessionWatch:
        """Watch the session: a snapshot first unless resuming, then every version once."""
        return self._client.watch_session(
            session_id=self.session_id,
            after_version=after_version,
            resume_token=resume_token,
            mode=mode,
            timeout=timeout,
        )
