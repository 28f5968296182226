"""maitred copy: copy everything from one store to another, and verify the copy."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from maitred.server.app.server import open_store
from maitred.server.cli.failures import FAILED, CommandError
from maitred.server.cli.remote import Progress
from maitred.server.cli.words import show
from maitred.server.config import Settings
from maitred.server.engine.copying import Copied, Copy
from maitred.server.kinds import all_kinds
from maitred.server.stores import without_password
from maitred.server.stores.base import StoreError
from maitred.server.telemetry import logging
from maitred.server.units import NS


def copy(arguments: argparse.Namespace) -> int:
    """Copy everything; print what differs afterwards."""
    logging.configure(level="error")
    accept = arguments.accept_data_loss
    source = Settings(data=arguments.source, accept_data_loss=accept)
    target = Settings(data=arguments.target, accept_data_loss=accept)
    if source.data == target.data:
        raise CommandError("source and target are the same")
    try:
        copied = asyncio.run(_copy(source, target))
    except StoreError as error:
        raise CommandError(f"{error}; run the same command again, it goes on from there") from error
    for problem in copied.problems:
        show(problem)
    summary = (
        f"{copied.aggregates} aggregates, {copied.events} events, {copied.rows} rows, "
        f"{copied.claims} claims copied to {without_password(target.data)}: "
    )
    if copied.problems:
        show(f"{summary}{len(copied.problems)} problems", file=sys.stderr)
        return FAILED
    show(f"{summary}every head, event, chain and fold is the same")
    return 0


async def _copy(source: Settings, target: Settings) -> Copied:
    taken, given = open_store(source, read_only=True), open_store(target)
    try:
        source_info = await taken.open()
    except StoreError as error:
        raise CommandError(f"{error}; nothing was copied") from error
    try:
        target_info = await given.open()
        try:
            with Progress("copying") as tell:
                kinds = all_kinds(source.retention_seconds)
                work = Copy(
                    taken,
                    given,
                    kinds,
                    lambda what, done, total: tell(done, total, what),
                    secrets=(source_info.secret, target_info.secret),
                    inbound_expires_ns=time.time_ns() + source.inbound_seconds * NS,
                )
                return await work.run()
        finally:
            await given.close()
    finally:
        await taken.close()
