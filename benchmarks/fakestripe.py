"""Stripe's stand-in as a process: `python -m benchmarks.fakestripe --latency 0.2 --rate 25`.

It is the fake of the server's test kit. `--sessions FILE` gives it Checkout Sessions to begin with:
the parameters of one a line, as they were sent to the account whose ids they got.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Post
from benchmarks.measure import BenchmarkError
from benchmarks.servers import ServerProcess, free_port
from maitred.server.testing.fakestripe import API_KEY, WEBHOOK_SECRET, FakeStripe

LATENCY_S = 0.2
RATE_PER_S = 25.0
"""Requests a second that a Stripe account in test mode is given."""

WEBHOOK_PATH = "/webhooks/stripe"
SUCCESS_URL = "https://house.example/thanks"


class Stripe(ServerProcess):
    """The stand-in, and what guests do there."""

    def __init__(self, directory: Path, sessions: Path | None = None) -> None:
        command = [sys.executable, "-m", "benchmarks.fakestripe"]
        command += ["--latency", str(LATENCY_S), "--rate", str(RATE_PER_S)]
        if sessions is not None:
            command += ["--sessions", str(sessions)]
        super().__init__("stripe", command, directory / "stripe.log")

    def options(self, webhooks: str) -> tuple[str, ...]:
        """Write the options of a `maitred serve` whose payments this takes."""
        return (
            *("--payments", "stripe"),
            *("--stripe-api-key", API_KEY),
            *("--stripe-api-base", f"http://{self.target}"),
            *("--stripe-success-url", SUCCESS_URL),
            *("--stripe-webhook-secrets", WEBHOOK_SECRET),
            *("--webhook-listen", webhooks),
        )

    def pay(self, payment_id: str) -> None:
        """Let a guest pay."""
        self._ask("POST", f"/_control/pay?session={payment_id}")

    def drain(self) -> list[Post]:
        """Take the messages that came of what guests did, oldest first."""
        return [
            Post(each["body"].encode(), each["signature"])
            for each in self._ask("GET", "/_control/events")
        ]

    def lookups(self) -> int:
        """Count how often a payment was asked about so far."""
        return int(self._ask("GET", "/_control/calls").get("sessions.retrieve", 0))

    def _ask(self, method: str, path: str) -> Any:
        connection = http.client.HTTPConnection(self.target, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise BenchmarkError(f"the stand-in of Stripe: {path}: {text.decode()}")
        return json.loads(text)


def webhook_address() -> str:
    """Choose where webhooks come in: on a port that was free a moment ago."""
    return f"127.0.0.1:{free_port()}"


def renamed(post: Post, count: int) -> list[Post]:
    """Tell the same fact in messages with ids of their own, signed with Stripe's code."""
    from stripe import WebhookSignature

    event = json.loads(post.body)
    posts = []
    for number in range(count):
        body = json.dumps({**event, "id": f"{event['id']}x{number}"}, indent=2)
        signature = WebhookSignature.generate_signature_header(body, WEBHOOK_SECRET)
        posts.append(Post(body.encode(), signature))
    return posts


def kind_of(post: Post) -> str:
    """Read the type of a message."""
    return str(json.loads(post.body)["type"])


async def serve(latency_s: float, rate: float, sessions: Sequence[bytes]) -> None:
    """Serve until a signal says to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    fake = FakeStripe(latency_s=latency_s, rate=rate)
    for parameters in sessions:
        fake.account.add_session(json.loads(parameters), "")
    await fake.start()
    print(fake.url.rpartition(":")[2], flush=True)
    await stopping.wait()
    await fake.aclose()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.fakestripe")
    parser.add_argument("--latency", type=float, default=LATENCY_S)
    parser.add_argument("--rate", type=float, default=RATE_PER_S)
    parser.add_argument("--sessions", type=Path)
    given = parser.parse_args(arguments)
    sessions = given.sessions.read_bytes().splitlines() if given.sessions is not None else []
    asyncio.run(serve(given.latency, given.rate, sessions))


if __name__ == "__main__":
    main()
