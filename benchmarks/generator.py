"""The load generator in Python, for machines without Go: the same plans, the same answers.

It is slower than the servers that it loads, so that its ratios say less; figures of processor time
stay right.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from maitred.v1 import session_pb2

Plan = dict[str, Any]


class Calls:
    """What was measured of the calls of one name."""

    def __init__(self) -> None:
        self.bytes = 0
        self.micros: list[float] = []

    def answer(self) -> dict[str, Any]:
        """Return it as the Go generator does."""
        taken = sorted(self.micros) or [0.0]
        return {
            "count": len(self.micros),
            "bytes": self.bytes,
            "p50_us": taken[len(taken) // 2],
            "p90_us": taken[len(taken) * 9 // 10],
            "p99_us": taken[len(taken) * 99 // 100],
            "mean_us": sum(taken) / len(taken),
        }


def channel(plan: Plan, number: int) -> grpc.aio.Channel:
    """Open a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("bench.number", number)]
    return grpc.aio.insecure_channel(plan["target"], options)


def message_of(step: dict[str, Any]) -> bytes:
    """Prepare a request; field 2 is a fresh id where one is wanted."""
    body = base64.b64decode(step["body"])
    return body + b"\x12\x20" + os.urandom(16).hex().encode() if step["request_id"] else body


async def unary(plan: Plan) -> dict[str, Any]:
    """Run the callers of a plan, each with one call in flight."""
    failures: Counter[str] = Counter()
    names: dict[str, Calls] = {}
    channels = [channel(plan, number) for number in range(plan["connections"])]
    mailer = Mailer(plan["posts"], failures) if plan.get("posts") else None
    if mailer is not None:
        await mailer.connect()
    start = time.perf_counter()
    until = start + plan["duration_s"] if plan["duration_s"] else float("inf")
    answered, posted = 0, False

    async def post() -> dict[str, Any] | None:
        nonlocal posted
        if mailer is None:
            return None
        try:
            async with asyncio.timeout(plan["timeout_s"]):
                return await mailer.run(lambda: answered)
        finally:
            posted = True

    async def run(number: int, caller: dict[str, Any]) -> int:
        on = channels[number % len(channels)]
        methods: dict[str, Any] = {
            step["path"]: on.unary_unary(step["path"]) for step in caller["steps"]
        }
        at: int = caller["at"]
        left: int = caller["calls"] or -1
        nonlocal answered
        while (
            left != 0 and not posted and time.perf_counter() < until and sum(failures.values()) < 20
        ):
            step = caller["steps"][at % len(caller["steps"])]
            sent = time.perf_counter()
            try:
                answer = await methods[step["path"]](
                    message_of(step), timeout=plan["timeout_s"], metadata=plan["metadata"] or None
                )
            except grpc.RpcError as error:
                failures[f"{step['name']}: {error}"] += 1
            else:
                calls = names.setdefault(step["name"], Calls())
                calls.bytes += len(answer)
                calls.micros.append((time.perf_counter() - sent) * 1e6)
                answered += 1
            at += 1
            left -= 1
        return at

    result, *at = await asyncio.gather(post(), *(run(*each) for each in enumerate(plan["callers"])))
    elapsed = time.perf_counter() - start
    for each in channels:
        await each.close()
    return {
        "elapsed_s": elapsed,
        "cpu_s": time.process_time(),
        "at": at,
        "names": {name: calls.answer() for name, calls in names.items()},
        "failures": failures,
        "posted": result,
    }


class Mailer:
    """Messages for a webhook, and connections that are open before anything is measured."""

    def __init__(self, plan: Plan, failures: Counter[str]) -> None:
        self.plan = plan
        self.failures = failures
        self.calls = Calls()
        self.answers: Counter[str] = Counter()
        self.streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self) -> None:
        """Open the connections."""
        host, _, port = self.plan["target"].rpartition(":")
        for _ in range(self.plan["connections"]):
            self.streams.append(await asyncio.open_connection(host, int(port)))

    async def run(self, answered: Callable[[], int]) -> dict[str, Any]:
        """Post everything at its time; `answered` counts the calls of the callers so far."""
        messages: list[dict[str, str]] = self.plan["messages"]
        rate: float = self.plan["rate_per_s"]
        due: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
        requests = [self._request(message) for message in messages]
        first = time.perf_counter() + self.plan["after_s"]
        await asyncio.sleep(self.plan["after_s"])
        before = answered()
        tasks = [asyncio.create_task(self._deliver(*each, due)) for each in self.streams]
        for number, request in enumerate(requests):
            at = first + number / rate if rate else first
            if at > time.perf_counter():
                await asyncio.sleep(at - time.perf_counter())
            due.put_nowait((at, request))
        for _ in tasks:
            due.put_nowait(None)
        await asyncio.gather(*tasks)
        elapsed = time.perf_counter() - first
        if missing := len(messages) - len(self.calls.micros):
            self.failures[f"webhook: {missing} were not answered with 200"] += 1
        return {
            **self.calls.answer(),
            "elapsed_s": elapsed,
            "calls": answered() - before,
            "answers": self.answers,
        }

    def _request(self, message: dict[str, str]) -> bytes:
        body = base64.b64decode(message["body"])
        head = (
            f"POST {self.plan['path']} HTTP/1.1\r\nHost: {self.plan['target']}\r\n"
            f"Content-Type: application/json\r\nStripe-Signature: {message['signature']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _deliver(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        due: asyncio.Queue[tuple[float, bytes] | None],
    ) -> None:
        try:
            while (next_one := await due.get()) is not None:
                at, request = next_one
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                body = await reader.readexactly(_content_length(head))
                status = head.partition("\r\n")[0]
                if " 200 " not in status or "\nconnection: close" in head:
                    self.failures[f"webhook: answered {status}"] += 1
                    return
                self.answers[body.decode().strip()] += 1
                self.calls.bytes += len(body)
                self.calls.micros.append((time.perf_counter() - at) * 1e6)
        except (OSError, EOFError) as error:
            self.failures[f"webhook: {error}"] += 1
        finally:
            writer.close()


def _content_length(head: str) -> int:
    return int(head.partition("\ncontent-length:")[2].partition("\r\n")[0])


class Crowd:
    """Streams that are open, and what they delivered."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.connected = 0
        self.delivered = 0
        self.target = 0
        self.failures: Counter[str] = Counter()
        self.changed = asyncio.Event()

    async def watch(self, on: grpc.aio.Channel) -> None:
        """Keep one stream."""
        last = -1
        try:
            method: Any = on.unary_stream(self.plan["path"])
            stream = method(base64.b64decode(self.plan["body"]))
            async for message in stream:
                version, events = self._read(message)
                if last < 0:
                    self.connected += 1
                elif events and self.plan["count"] == "session" and events != version - last:
                    self.failures[f"{events} events from version {last} to {version}"] += 1
                else:
                    self.delivered += events
                last = version
                if self.connected == self.plan["streams"] and self.delivered >= self.target:
                    self.changed.set()
            self.failures["a watch ended"] += 1
        except grpc.RpcError as error:
            self.failures[f"a watch ended: {error}"] += 1
        self.changed.set()

    def _read(self, message: bytes) -> tuple[int, int]:
        if self.plan["count"] != "session":
            return 0, 1
        parsed = session_pb2.WatchSessionResponse.FromString(message)
        return parsed.version, len(parsed.events.events)

    async def reached(self) -> None:
        """Wait until everything is there, or something failed."""
        async with asyncio.timeout(self.plan["timeout_s"]):
            await self.changed.wait()

    async def publish(self, on: grpc.aio.Channel) -> int:
        """Send the calls in groups; a group begins when all of the one before was delivered."""
        steps = self.plan["callers"][0]["steps"]
        published = 0
        while published < self.plan["publishes"] and not self.failures:
            group = min(self.plan["window"], self.plan["publishes"] - published)
            self.changed.clear()
            self.target += group * self.plan["streams"]
            chosen = [steps[(published + each) % len(steps)] for each in range(group)]
            published += group
            methods: list[Any] = [on.unary_unary(step["path"]) for step in chosen]
            await asyncio.gather(
                *(method(message_of(step)) for method, step in zip(methods, chosen, strict=True))
            )
            await self.reached()
        return published


async def watch(plan: Plan) -> None:
    """Open the streams, say so, wait for a line, publish, say what came, wait for a line."""
    crowd = Crowd(plan)
    channels = [channel(plan, number) for number in range(plan["connections"] + 1)]
    start = time.perf_counter()
    tasks = [
        asyncio.create_task(crowd.watch(channels[number % plan["connections"]]))
        for number in range(plan["streams"])
    ]
    await crowd.reached()
    tell(
        connected=crowd.connected,
        elapsed_s=time.perf_counter() - start,
        failures=crowd.failures,
    )
    if await asyncio.to_thread(sys.stdin.readline):
        start = time.perf_counter()
        published = await crowd.publish(channels[-1])
        tell(
            published=published,
            delivered=crowd.delivered,
            elapsed_s=time.perf_counter() - start,
            cpu_s=time.process_time(),
            failures=crowd.failures,
        )
        await asyncio.to_thread(sys.stdin.readline)
    for task in tasks:
        task.cancel()


def tell(**answer: Any) -> None:
    """Print an answer."""
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Carry out the plan on standard input."""
    plan = json.loads(sys.stdin.readline())
    plan["metadata"] = [tuple(each) for each in plan.get("metadata", ())]
    if plan["mode"] == "watch":
        asyncio.run(watch(plan))
    else:
        tell(**asyncio.run(unary(plan)))


if __name__ == "__main__":
    main()
