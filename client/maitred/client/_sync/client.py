# generated: edit _async and run scripts/unasync.py
"""The client: every rpc of the contract as a method."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from maitred.client._channel import DEFAULT_RETRIES, TLS, Retries
from maitred.client._money import optional_money
from maitred.client._options import DEFAULTS, Options, RequestId
from maitred.client._request_ids import TurnIds
from maitred.client._seen import Seen
from maitred.client._sync.administration import Administration
from maitred.client._sync.calls import Calls
from maitred.client._sync.conversations import Conversations
from maitred.client._sync.handle import SessionHandle
from maitred.client._sync.menus import Menus
from maitred.client._sync.orders import Orders
from maitred.client._sync.payments import Payments
from maitred.client._sync.sessions import Sessions
from maitred.client._sync.transport import Transport
from maitred.client._values import struct
from maitred.v1.common_pb2 import Money
from maitred.v1.session_pb2 import CreateSessionRequest, CreateSessionResponse
from maitred.v1.state_pb2 import BalancePolicy

_DEFAULT_ADDRESS = "127.0.0.1:50051"


class Client(
    Sessions,
    Conversations,
    Menus,
    Orders,
    Payments,
    Administration,
):
    """A client of one maitred, or of several servers of the same data.

    Each rpc is a method that answers what the rpc answers. `create_session` and `session` give a
    handle, which is shorter to use and keeps the last state it saw. Every mutation carries a
    request id, so that retries have one effect.
    """

    def __init__(
        self,
        addresses: str | Sequence[str] = _DEFAULT_ADDRESS,
        *,
        token: str | None = None,
        tls: TLS | bool = False,
        timeout: float | None = DEFAULTS.timeout,
        retries: Retries = DEFAULT_RETRIES,
        currency: str = DEFAULTS.currency,
        heartbeat: float = DEFAULTS.heartbeat,
        outage: float = DEFAULTS.outage,
    ) -> None:
        """Prepare a client; the first call connects.

        `addresses` is one or several targets of gRPC's (`HOST:PORT`, `unix:PATH`, `dns:///NAME:PORT`),
        with commas between or as a sequence. Of several servers of the same data each session
        keeps to one while that answers, and calls and watches go on at another when it does not.
        `timeout` bounds a call, retries included. `currency` is that of amounts given as plain
        ints of minor units. A watch connects anew when three heartbeats are missing, and gives up
        after `outage` seconds; how often they come is said by the server, and until it has said
        so taken to be `heartbeat`.
        """
        secured = (tls if isinstance(tls, TLS) else TLS()) if tls else None
        self._calls = Calls(
            Transport(addresses, token, secured, retries),
            Options(timeout=timeout, currency=currency, heartbeat=heartbeat, outage=outage),
        )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Make a client of MAITRED_ADDRESS, MAITRED_TOKEN and MAITRED_CA (a PEM file)."""
        found = os.environ if environ is None else environ
        authority = found.get("MAITRED_CA")
        return cls(
            found.get("MAITRED_ADDRESS") or _DEFAULT_ADDRESS,
            token=found.get("MAITRED_TOKEN"),
            tls=TLS(root_certificates=Path(authority).read_bytes()) if authority else False,
        )

    def with_timeout(self, timeout: float | None) -> Self:
        """Make a client whose calls may take so many seconds, over the same connection."""
        return self._replaced(timeout=timeout)

    def _replaced(self, **changes: Any) -> Self:
        client = copy.copy(self)
        client._calls = self._calls.replaced(**changes)
        return client

    def create_session(
        self,
        *,
        session_id: str = "",
        menu_id: str = "",
        opening_balance: Money | int | None = None,
        balance_policy: BalancePolicy.ValueType = BalancePolicy.BALANCE_POLICY_UNSPECIFIED,
        idle_seconds: int = 0,
        customer_id: str = "",
        labels: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        **options: Unpack[RequestId],
    ) -> SessionHandle:
        """Open a session, or find the open one that the same request opened.

        Under an id whose session has ended, a new visit begins: `new_visit` of the handle says so.

        Raises: AlreadyExists.
        """
        request = CreateSessionRequest(
            session_id=session_id,
            menu_id=menu_id,
            opening_balance=optional_money(opening_balance, self._calls.options.currency),
            balance_policy=balance_policy,
            idle_seconds=idle_seconds,
            customer_id=customer_id,
            labels=labels,
            attributes=struct(attributes),
            **options,
        )
        answer = self._calls.call(request, CreateSessionResponse)
        state = answer.session
        return SessionHandle(self, state.session_id, Seen(state), new_visit=answer.new_visit)

    def session(self, session_id: str, *, turn_id: str = "") -> SessionHandle:
        """Make a handle of a session, without a call.

        With `turn_id`, request ids follow from the turn, so that a turn that is run again repeats
        nothing: use one handle for one run of the turn.
        """
        client = self._replaced(request_ids=TurnIds(turn_id)) if turn_id else self
        return SessionHandle(client, session_id, Seen())

    def close(self) -> None:
        """Close the connection; what runs is cancelled."""
        self._calls.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
