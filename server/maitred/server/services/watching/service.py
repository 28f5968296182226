"""The handlers of the streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from maitred.server.engine.call import Call
from maitred.server.engine.engine import Engine
from maitred.server.kinds.session import session_ref
from maitred.server.services.watching.aggregate import LogStream
from maitred.server.services.watching.everything import EventsStream
from maitred.server.services.watching.loop import deliver
from maitred.server.services.watching.payment import PaymentStream
from maitred.v1.payment_pb2 import WatchPaymentRequest
from maitred.v1.session_pb2 import WatchEventsRequest, WatchSessionRequest


class WatchService:
    """Streams of what became durable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def WatchSession(self, request: WatchSessionRequest, call: Call) -> AsyncIterator[bytes]:
        """Stream a session: every version once and in order, or the newest state."""
        stream = LogStream(self._engine, session_ref(request.session_id), request)
        async with aclosing(deliver(self._engine.hub, stream)) as messages:
            async for message in messages:
                yield message

    async def WatchPayment(self, request: WatchPaymentRequest, call: Call) -> AsyncIterator[bytes]:
        """Stream payment state and payment: what is, then every change of it."""
        stream = PaymentStream(self._engine, request)
        async with aclosing(deliver(self._engine.hub, stream)) as messages:
            async for message in messages:
                yield message

    async def WatchEvents(self, request: WatchEventsRequest, call: Call) -> AsyncIterator[bytes]:
        """Stream the events of all sessions and menus, at least once, in order within each."""
        stream = EventsStream(self._engine, request)
        async with aclosing(deliver(self._engine.hub, stream)) as messages:
            async for message in messages:
                yield message
