"""`FakeStripe`: the endpoints over HTTP, with the memory of keys, rate limits and faults."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from maitred.server.engine.clock import Clock, SystemClock
from maitred.server.payments.stripe import StripeConfig
from maitred.server.testing.fakestripe.account import (
    Account,
    NotPossible,
    Object,
    body_of,
    concerns,
    thin,
)
from maitred.server.testing.fakestripe.api import Api
from maitred.server.testing.fakestripe.faults import (
    Fault,
    internal_error,
    key_in_use,
    too_many,
    wrong_key,
)
from maitred.server.testing.fakestripe.forms import Refusal, nested

API_KEY = "sk_test_a_key_of_the_fake"
WEBHOOK_SECRET = "whsec_a_secret_of_the_fake"  # noqa: S105 - it opens nothing

ENDPOINTS: tuple[tuple[str, str, str], ...] = (
    ("sessions.create", "POST", "/v1/checkout/sessions"),
    ("sessions.list", "GET", "/v1/checkout/sessions"),
    ("sessions.retrieve", "GET", "/v1/checkout/sessions/{name}"),
    ("sessions.expire", "POST", "/v1/checkout/sessions/{name}/expire"),
    ("intents.retrieve", "GET", "/v1/payment_intents/{name}"),
    ("charges.retrieve", "GET", "/v1/charges/{name}"),
    ("refunds.create", "POST", "/v1/refunds"),
    ("refunds.list", "GET", "/v1/refunds"),
    ("refunds.retrieve", "GET", "/v1/refunds/{name}"),
    ("disputes.list", "GET", "/v1/disputes"),
    ("disputes.retrieve", "GET", "/v1/disputes/{name}"),
)
OPERATIONS = frozenset(operation for operation, _, _ in ENDPOINTS)

CONTROLS = ("pay", "decline", "pay_slowly", "settle", "fail_slowly", "expire", "dispute")


class Seen(NamedTuple):
    """One request as it came."""

    operation: str
    name: str
    form: Mapping[str, Any]
    headers: Mapping[str, str]


class Kept(NamedTuple):
    """What the first answer to a key was, and to what question."""

    question: str
    status: int
    body: Object


class FakeStripe:
    """A Stripe on a loopback port, in the running event loop. `async with` starts and stops it.

    `account` holds the objects and what guests, banks and staff do; `script` makes faults; `calls`
    counts requests by operation; `seen` holds the last of them.
    """

    def __init__(
        self,
        *,
        api_key: str = API_KEY,
        webhook_secret: str = WEBHOOK_SECRET,
        clock: Clock | None = None,
        latency_s: float = 0.0,
        rate: float = 0.0,
        livemode: bool = False,
    ) -> None:
        """`rate` is how many requests a second are let through; 0: all."""
        self.api_key = api_key
        self.webhook_secret = webhook_secret
        self.account = Account(clock or SystemClock(), livemode=livemode)
        self.calls: Counter[str] = Counter()
        self.seen: deque[Seen] = deque(maxlen=1000)
        self.latency_s = latency_s
        self.url = ""
        self._rate = rate
        self._recent: deque[float] = deque()
        self._api = Api(self.account)
        self._scripts: dict[str, deque[Fault]] = {each: deque() for each in OPERATIONS}
        self._kept: dict[str, Kept] = {}
        self._under_way: set[str] = set()
        self._server: uvicorn.Server | None = None
        self.app = Starlette(routes=self._routes())

    # --- for tests --------------------------------------------------------------------------------

    def config(self, **changed: Any) -> StripeConfig:
        """Make what a provider reaches this fake with; waits are short, as tests need them."""
        given: dict[str, Any] = {
            "api_key": self.api_key,
            "webhook_secrets": (self.webhook_secret,),
            "success_url": "https://house.example/thanks",
            "api_base": self.url,
            "timeout_s": 5.0,
            "clock": self.account.clock,
        }
        return StripeConfig(**{**given, **changed})

    def script(self, operation: str, *faults: str) -> None:
        """Give the next calls of an operation their faults; `ok` is none.

        A kind of `faults.REFUSALS` or `faults.BREAKDOWNS`, the latter also with `_after`;
        `rate_limited:SECONDS` sets Retry-After, `garbage:STATUS:TEXT` the whole answer.
        Raises: KeyError for the operation, ValueError for the fault.
        """
        self._scripts[operation].extend([Fault.parse(each) for each in faults])

    def heal(self) -> None:
        """Drop the faults that did not happen yet."""
        for script in self._scripts.values():
            script.clear()

    def forget_keys(self) -> None:
        """Forget all idempotency keys, as Stripe does after a day."""
        self._kept.clear()

    def drain_events(self, *, thin_ones: bool = False) -> list[tuple[bytes, str]]:
        """Take the events that nobody took yet, oldest first: each body with its signature."""
        events, self.account.events = self.account.events, []
        return [self._signed(thin(each) if thin_ones else each) for each in events]

    def events_for(self, session: str, *, thin_ones: bool = False) -> list[tuple[bytes, str]]:
        """Look at the events that concern a session, and leave them."""
        found = self.account.tables["cs"][session]
        names = {session, str(found["payment_intent"] or session)}
        events = [each for each in self.account.events if concerns(each, names)]
        return [self._signed(thin(each) if thin_ones else each) for each in events]

    def sign(self, body: bytes, *, secret: str = "", at_s: int | None = None) -> str:
        """Make the `Stripe-Signature` of a body, with Stripe's own code."""
        from stripe import WebhookSignature

        made: str = WebhookSignature.generate_signature_header(
            body.decode(),
            secret or self.webhook_secret,
            timestamp=self.account.now_s() if at_s is None else at_s,
        )
        return made

    # --- its life ---------------------------------------------------------------------------------

    async def start(self, port: int = 0) -> None:
        """Listen on a loopback port; 0: a free one."""
        listener = socket.create_server(("127.0.0.1", port))
        # asyncio sets it only where a socket says that it speaks TCP; without, answers take 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = self._api.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self.app, log_config=None, log_level="critical", access_log=False, lifespan="off"
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._listener = listener
        # Not `serve`, which takes the signals of the process.
        await self._server.startup(sockets=[listener])

    async def aclose(self) -> None:
        """Stop listening, and end what is under way."""
        server, self._server = self._server, None
        if server is not None:
            server.force_exit = True
            await server.shutdown(sockets=[self._listener])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # --- one request ------------------------------------------------------------------------------

    def _routes(self) -> list[Route]:
        routes = [
            Route(path, partial(self._serve, operation), methods=[method])
            for operation, method, path in ENDPOINTS
        ]
        routes.append(Route("/_control/calls", self._counted, methods=["GET"]))
        routes.append(Route("/_control/events", self._drained, methods=["GET"]))
        routes.append(Route("/_control/{act}", self._control, methods=["POST"]))
        return routes

    async def _serve(self, operation: str, request: Request) -> Response:
        self.calls[operation] += 1
        body = await request.body()
        text = body.decode() if request.method == "POST" else request.url.query
        pairs = parse_qsl(text, keep_blank_values=True)
        form = nested(pairs)
        name = request.path_params.get("name", "")
        self.seen.append(Seen(operation, name, form, dict(request.headers)))
        script = self._scripts[operation]
        fault = script.popleft() if script else Fault("ok", is_late=False, argument="")
        try:
            self._admit(request, fault)
            key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
            question = f"{request.url.path} {sorted(pairs)}"
            kept = self._replay(key, question)
            if kept is not None:
                return self._reply(kept.status, kept.body, {"idempotent-replayed": "true"})
            if key:
                self._under_way.add(key)
            try:
                return await self._answer(operation, form, fault, key, question, request)
            finally:
                self._under_way.discard(key)
        except Refusal as refusal:
            return self._reply(refusal.status, refusal.body, refusal.headers)

    def _admit(self, request: Request, fault: Fault) -> None:
        """Refuse what does not get as far as the key. Raises: Refusal."""
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            raise wrong_key()
        fault.refuse()
        if self._is_too_fast():
            raise too_many("1")

    def _replay(self, key: str, question: str) -> Kept | None:
        """Find what a key was answered at first. Raises: Refusal."""
        if key in self._under_way:
            raise key_in_use()
        kept = self._kept.get(key)
        if kept is not None and kept.question != question:
            raise Refusal(
                "Keys for idempotent requests can only be used with the same parameters",
                kind="idempotency_error",
            )
        return kept

    async def _answer(
        self,
        operation: str,
        form: Mapping[str, Any],
        fault: Fault,
        key: str,
        question: str,
        request: Request,
    ) -> Response:
        """Answer a key's first request, and keep what was answered. Raises: Refusal."""
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        is_kept_fault = fault.kind == "error_500"
        if fault.comes_first and not is_kept_fault:
            return await fault.answer(request)
        status, body = 500, internal_error()
        if not fault.comes_first:
            asked = self._api.check(operation, form)
            done = self._carried_out(operation, request.path_params.get("name", ""), asked)
            status, body = (status, body) if is_kept_fault else done
        if key:
            self._kept[key] = Kept(question, status, body)
        if fault.is_late and not is_kept_fault:
            return await fault.answer(request)
        return self._reply(status, body)

    def _carried_out(self, operation: str, name: str, asked: dict[str, Any]) -> tuple[int, Object]:
        try:
            return 200, self._api.answer(operation, name, asked)
        except Refusal as refusal:
            # Refused in the act, and not for its parameters: that is kept, as an effect is.
            return refusal.status, refusal.body

    def _is_too_fast(self) -> bool:
        if not self._rate:
            return False
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if len(self._recent) >= self._rate:
            return True
        self._recent.append(now)
        return False

    def _reply(
        self, status: int, body: Object, headers: Mapping[str, str] | None = None
    ) -> Response:
        given = {"request-id": f"req_{sum(self.calls.values()):08d}", **(headers or {})}
        return JSONResponse(body, status, headers=given)

    def _signed(self, event: Object) -> tuple[bytes, str]:
        body = body_of(event)
        return body, self.sign(body)

    # --- for other processes ----------------------------------------------------------------------

    async def _counted(self, _request: Request) -> Response:
        return JSONResponse(dict(self.calls))

    async def _drained(self, request: Request) -> Response:
        events = self.drain_events(thin_ones="thin" in request.query_params)
        return JSONResponse([{"body": body.decode(), "signature": sign} for body, sign in events])

    async def _control(self, request: Request) -> Response:
        act = request.path_params["act"]
        wanted = request.query_params.get("session", "")
        sessions = self.account.tables["cs"]
        name = next(
            (
                each["id"]
                for each in sessions.values()
                if wanted in (each["id"], each["url"], each["client_reference_id"])
            ),
            "",
        )
        if act not in CONTROLS or not name:
            return JSONResponse({"error": "no such act or session"}, 404)
        try:
            getattr(self.account, act)(name)
        except NotPossible as refusal:
            return JSONResponse({"error": str(refusal)}, 409)
        return JSONResponse({"session": name, "status": sessions[name]["status"]})
