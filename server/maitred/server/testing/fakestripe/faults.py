"""What can be made to go wrong with a request, and what that looks like to its client."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from maitred.server.testing.fakestripe.account import Object
from maitred.server.testing.fakestripe.forms import Refusal

REFUSALS = frozenset({"conflict", "forbidden", "key_in_use", "rate_limited", "unauthorized"})
"""They come before the key is looked at; nothing is kept of them."""

BREAKDOWNS = frozenset({"dropped", "error_500", "error_503", "garbage", "html_502", "timeout"})
"""With `_after` at its end, the effect happens and is kept for the key; then comes the fault."""

LONGEST_HOLD_S = 60.0
"""How long a request that is to time out is held, if its client does not leave."""


class Fault(NamedTuple):
    """One fault of one request."""

    kind: str
    is_late: bool
    argument: str

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `KIND`, `KIND_after` or either with `:ARGUMENT`; `ok` is none.

        Raises: ValueError.
        """
        name, _, argument = text.partition(":")
        kind = name.removesuffix("_after")
        known = BREAKDOWNS if kind != name else BREAKDOWNS | REFUSALS | {"ok"}
        if kind not in known:
            raise ValueError(f"no such fault: {text!r}")
        return cls(kind, kind != name, argument)

    @property
    def comes_first(self) -> bool:
        """Whether it is a breakdown that keeps the effect from happening."""
        return self.kind in BREAKDOWNS and not self.is_late

    def refuse(self) -> None:
        """Refuse, if that is the fault. Raises: Refusal."""
        match self.kind:
            case "unauthorized":
                raise wrong_key()
            case "forbidden":
                raise Refusal("The key does not have the required permissions", status=403)
            case "rate_limited":
                raise too_many(self.argument or "1")
            case "conflict":
                raise Refusal("The object is locked", status=409, code="lock_timeout")
            case "key_in_use":
                raise key_in_use()

    async def answer(self, request: Request) -> Response:
        """Break down, in the way that is not kept for the key."""
        match self.kind:
            case "timeout":
                # The client leaves without an answer; that is what is waited for.
                await asyncio.wait_for(request.receive(), LONGEST_HOLD_S)
                return Response()
            case "dropped":
                return BrokenOff()
            case "garbage":
                status, _, text = (self.argument or "200:<html>").partition(":")
                return Response(text, int(status), media_type="application/json")
            case "error_503":
                return JSONResponse(internal_error(), 503)
        return Response("<html><h1>502 Bad Gateway</h1></html>", 502, media_type="text/html")


class BrokenOff(Response):
    """An answer whose connection is lost in its midst."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin an answer and leave; the server then closes the connection."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


def wrong_key() -> Refusal:
    """Refuse a key, as Stripe does: it repeats a part of it."""
    return Refusal("Invalid API Key provided: sk_test_*********fake", status=401)


def too_many(retry_after: str) -> Refusal:
    """Refuse for now."""
    headers = {"retry-after": retry_after}
    return Refusal("Too many requests", status=429, code="rate_limit", headers=headers)


def key_in_use() -> Refusal:
    """Refuse a second request of a key while the first is under way."""
    return Refusal(
        "There is currently another in-progress request using this key",
        status=409,
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )


def internal_error() -> Object:
    """Make the body of a breakdown."""
    return {"error": {"message": "An unknown error occurred", "type": "api_error"}}
