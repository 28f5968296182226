"""maitred check: verify that every log is intact and folds to the stored state."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

from maitred.server.app.server import open_store
from maitred.server.cli.failures import FAILED, CommandError
from maitred.server.cli.remote import Progress
from maitred.server.cli.words import enum_word, safe, show
from maitred.server.config import Settings
from maitred.server.engine import audit
from maitred.server.errors import MaitredError
from maitred.server.kinds import all_kinds
from maitred.server.stores.base import Ref, Store, StoreError
from maitred.server.stores.sqlite import SqliteStore
from maitred.server.telemetry import logging
from maitred.v1 import admin_pb2

_KINDS = all_kinds()
KINDS = tuple(_KINDS)


class Found(NamedTuple):
    """What a check found."""

    aggregates: int
    events: int
    problems: list[str]


def check(arguments: argparse.Namespace) -> int:
    """Check everything; print what is wrong."""
    logging.configure(level="error")
    settings = Settings(data=arguments.data)
    try:
        found = asyncio.run(_check(settings))
    except StoreError as error:
        raise CommandError(f"{error}; nothing was checked") from error
    for problem in found.problems:
        show(problem)
    summary = f"{found.aggregates} aggregates, {found.events} events checked: "
    if found.problems:
        show(f"{summary}{len(found.problems)} problems", file=sys.stderr)
        return FAILED
    show(f"{summary}all is well")
    return 0


async def _check(settings: Settings) -> Found:
    store = open_store(settings, read_only=True)
    return await look(store, settings.data)


async def look(store: Store, name: str) -> Found:
    """Open a store, check everything in it, close it. Raises: StoreError."""
    await store.open()
    try:
        total = sum([await store.count(kind) for kind in KINDS])
        aggregates, events = 0, 0
        problems = [f"{name}: {each}" for each in await _integrity(store)]
        with Progress("checking") as tell:
            async for ref in _refs(store):
                seen, wrong = await _one(store, ref)
                aggregates, events = aggregates + 1, events + seen
                problems += wrong
                tell(aggregates, max(total, aggregates))
        return Found(aggregates, events, problems)
    finally:
        await store.close()


async def _integrity(store: Store) -> list[str]:
    """What the engine finds wrong with its own file, where it has one."""
    return await store.integrity() if isinstance(store, SqliteStore) else []


async def _refs(store: Store) -> AsyncIterator[Ref]:
    """Iterate over what there is, each once, also where its log comes in several records."""
    last: Ref | None = None
    async for record in store.scan():
        if record.loaded.ref != last and record.loaded.ref.kind in KINDS:
            last = record.loaded.ref
            yield last


async def _one(store: Store, ref: Ref) -> tuple[int, list[str]]:
    kind = _KINDS[ref.kind]
    name = f"{kind.name} {safe(ref.id)}"
    try:
        report = await audit.verify(store, kind, ref)
    except (MaitredError, StoreError, ValueError) as error:
        return 0, [f"{name}: {error}"]
    if report is None:
        return 0, [f"{name}: it is gone"]
    return report.events, [
        f"{name}, version {each.version}: "
        f"{enum_word(admin_pb2.AuditViolationKind, each.kind)}: {each.detail}"
        for each in report.violations
    ]
