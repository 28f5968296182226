"""`python -m maitred.server.testing.fakestripe --port 12111 --latency 0.2 --rate 25`.

`POST /_control/pay?session=…` (also decline, pay_slowly, settle, fail_slowly, expire, dispute) acts
as a guest; `GET /_control/calls` counts requests; `GET /_control/events` drains signed webhooks.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

from maitred.server.testing.fakestripe.server import API_KEY, WEBHOOK_SECRET, FakeStripe


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal says to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    fake = FakeStripe(
        api_key=arguments.api_key,
        webhook_secret=arguments.webhook_secret,
        latency_s=arguments.latency,
        rate=arguments.rate,
    )
    await fake.start(arguments.port)
    print(f"listening {fake.url}", flush=True)  # noqa: T201 - the line that a parent waits for
    await stopping.wait()
    await fake.aclose()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="fakestripe", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds for each request")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: any number")
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument("--webhook-secret", default=WEBHOOK_SECRET)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
