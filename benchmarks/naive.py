"""The naive server, written in an afternoon: the same AddItem, one commit per call.

One aiosqlite connection, WAL and synchronous=FULL, a lock around the transaction; no validation, no
chain, no watches. It takes and answers the messages of the contract, so that the work is the same.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiosqlite
import grpc

from benchmarks import bare
from benchmarks.guests import PRICE
from maitred.v1 import common_pb2, event_pb2, order_pb2, session_pb2, state_pb2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    session_id TEXT NOT NULL, version INTEGER NOT NULL, request_id TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (session_id, version), UNIQUE (session_id, request_id));
"""


class Naive:
    """The handlers, over one connection."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._lock = asyncio.Lock()

    async def create(self, request: session_pb2.CreateSessionRequest, _context: Any) -> bytes:
        """Open a session."""
        session = state_pb2.Session(session_id=request.session_id, version=1)
        session.payment.balance.CopyFrom(request.opening_balance)
        session.payment.tab_total.currency = request.opening_balance.currency
        async with self._lock:
            await self._database.execute(
                "INSERT INTO sessions VALUES (?, 1, ?)",
                (request.session_id, session.SerializeToString()),
            )
            await self._database.commit()
        return session_pb2.CreateSessionResponse(session=session).SerializeToString()

    async def get(self, request: session_pb2.GetSessionRequest, _context: Any) -> bytes:
        """Read a session."""
        async with self._lock:
            session = await self._load(request.session_id)
        return session_pb2.GetSessionResponse(session=session).SerializeToString()

    async def add_item(self, request: order_pb2.AddItemRequest, context: Any) -> bytes:
        """Load, check, charge, write the session and its event, commit."""
        async with self._lock:
            await self._refuse_repeated(request.session_id, request.request_id, context)
            session = await self._load(request.session_id)
            if session.payment.balance.minor_units < PRICE:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "insufficient funds")
            price = common_pb2.Money(minor_units=PRICE, currency="USD")
            line = session.order.lines.add(
                line_number=session.last_line_number + 1,
                item_id=request.item.lower(),
                name=request.item,
                quantity=request.quantity or 1,
                unit_price=price,
                total=price,
            )
            session.last_line_number += 1
            session.order.total.minor_units += PRICE
            session.order.total.currency = "USD"
            session.payment.balance.minor_units -= PRICE
            session.payment.tab_total.minor_units += PRICE
            session.payment.total.CopyFrom(session.payment.tab_total)
            event = event_pb2.Event(
                line_added=event_pb2.LineAdded(
                    line=line, order_total=session.order.total, payment=session.payment
                )
            )
            await self._write(session, event, request.request_id)
        return order_pb2.AddItemResponse(
            session=session, event=event, line=line
        ).SerializeToString()

    async def place_order(self, request: order_pb2.PlaceOrderRequest, context: Any) -> bytes:
        """Empty the open order."""
        async with self._lock:
            await self._refuse_repeated(request.session_id, request.request_id, context)
            session = await self._load(request.session_id)
            event = event_pb2.Event(order_placed=event_pb2.OrderPlaced(order=session.order))
            session.last_order_number += 1
            session.ClearField("order")
            await self._write(session, event, request.request_id)
        return order_pb2.PlaceOrderResponse(session=session, event=event).SerializeToString()

    async def _load(self, session_id: str) -> state_pb2.Session:
        async with self._database.execute(
            "SELECT body FROM sessions WHERE id = ?", (session_id,)
        ) as cursor:
            row = await cursor.fetchone()
        assert row is not None
        return state_pb2.Session.FromString(row[0])

    async def _refuse_repeated(self, session_id: str, request_id: str, context: Any) -> None:
        async with self._database.execute(
            "SELECT version FROM events WHERE session_id = ? AND request_id = ?",
            (session_id, request_id),
        ) as cursor:
            if await cursor.fetchone() is not None:
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, "seen before")

    async def _write(
        self, session: state_pb2.Session, event: event_pb2.Event, request_id: str
    ) -> None:
        before = session.version
        session.version = event.version = before + 1
        event.time.GetCurrentTime()
        await self._database.execute(
            "UPDATE sessions SET version = ?, body = ? WHERE id = ? AND version = ?",
            (session.version, session.SerializeToString(), session.session_id, before),
        )
        await self._database.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            (session.session_id, session.version, request_id, event.SerializeToString()),
        )
        await self._database.commit()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, naive: Naive) -> None:
        def unary(function: Any, request: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(function, request.FromString)

        self._methods = {
            "/maitred.v1.SessionService/CreateSession": unary(
                naive.create, session_pb2.CreateSessionRequest
            ),
            "/maitred.v1.SessionService/GetSession": unary(
                naive.get, session_pb2.GetSessionRequest
            ),
            "/maitred.v1.OrderService/AddItem": unary(naive.add_item, order_pb2.AddItemRequest),
            "/maitred.v1.OrderService/PlaceOrder": unary(
                naive.place_order, order_pb2.PlaceOrderRequest
            ),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Find the handler of a call."""
        path: str = handler_call_details.method  # type: ignore[attr-defined, unused-ignore]
        return self._methods.get(path)


async def main(path: str) -> None:
    """Serve a database."""
    async with aiosqlite.connect(path) as database:
        await database.execute("PRAGMA journal_mode = WAL")
        await database.execute("PRAGMA synchronous = FULL")
        await database.executescript(_SCHEMA)
        await bare.run(_Handlers(Naive(database)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
