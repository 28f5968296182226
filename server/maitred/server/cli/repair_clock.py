"""maitred repair-clock: correct what was written while the clock was ahead."""

from __future__ import annotations

import argparse
import asyncio
import sys

from maitred.server.app.server import open_store
from maitred.server.cli.failures import FAILED, CommandError
from maitred.server.cli.words import show
from maitred.server.config import Settings
from maitred.server.engine import timekeeping
from maitred.server.engine.engine import Engine
from maitred.server.stores.base import StoreError
from maitred.server.telemetry import logging


def repair_clock(arguments: argparse.Namespace) -> int:
    """Put right when sessions expire; print how many."""
    logging.configure(level="error")
    settings = Settings(data=arguments.data)
    try:
        found = asyncio.run(_repair(settings))
    except StoreError as error:
        raise CommandError(f"{error}; run the same command again, it goes on from there") from error
    for problem in found.failed:
        show(problem, file=sys.stderr)
    show(f"{found.sessions} active sessions, {found.repaired} put right")
    return FAILED if found.failed else 0


async def _repair(settings: Settings) -> timekeeping.Repaired:
    # Looked at first: a mistyped path is not to become an empty database.
    probe = open_store(settings, read_only=True)
    try:
        await probe.open()
    except StoreError as error:
        raise CommandError(f"{error}; nothing was changed") from error
    await probe.close()
    engine = Engine(open_store(settings), settings)
    await engine.start()
    try:
        return await timekeeping.repair(engine)
    finally:
        await engine.stop()
