"""AdminService: what the server is, and what those who run it may do with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import metadata
from pathlib import Path

from maitred.server.app.backups import Backups
from maitred.server.engine.call import Call
from maitred.server.engine.engine import Engine
from maitred.server.engine.sweeper import Sweeper
from maitred.server.errors import (
    Unsupported,
)
from maitred.server.kinds.session import session_ref
from maitred.server.payments.health import Health
from maitred.server.stores.base import BackupInfo
from maitred.server.units import NS
from maitred.v1 import admin_pb2

ProviderHealth = Callable[[], Awaitable[Health]]

_MOST_LOOKED_AFTER = 1000
"""How many sessions SweepExpired looks after where its request says nothing."""


def version() -> str:
    """The version of maitred, as it was installed."""
    try:
        return metadata.version("maitred")
    except metadata.PackageNotFoundError:
        return "0+source"


class AdminService:
    """What those who run the server ask of it."""

    def __init__(
        self,
        engine: Engine,
        sweeper: Sweeper,
        backups: Backups,
        provider_health: ProviderHealth,
    ) -> None:
        self._engine = engine
        self._sweeper = sweeper
        self._provider_health = provider_health
        self._backups = backups
        self._started_ns = engine.clock.now_ns()

    async def GetServerInfo(
        self, request: admin_pb2.GetServerInfoRequest, call: Call
    ) -> admin_pb2.GetServerInfoResponse:
        """Tell what this server is."""
        settings, info = self._engine.settings, self._engine.info
        response = admin_pb2.GetServerInfoResponse(
            version=version(),
            store=info.engine if info else "",
            store_epoch=info.epoch.hex() if info else "",
            payments=settings.payments,
            payments_simulated=settings.payments == "simulated",
            caller_role=call.actor.role,
            tip_percentages=settings.tip_percentages,
            default_menu_id=settings.default_menu_id,
        )
        response.heartbeat.FromMilliseconds(round(settings.heartbeat_s * 1000))
        response.started_at.FromNanoseconds(self._started_ns)
        response.now.FromNanoseconds(self._engine.clock.now_ns())
        return response

    async def SweepExpired(
        self, request: admin_pb2.SweepExpiredRequest, call: Call
    ) -> admin_pb2.SweepExpiredResponse:
        """Look after sessions whose time has come, at once."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        swept = await self._sweeper.sweep(request.limit or _MOST_LOOKED_AFTER)
        response = admin_pb2.SweepExpiredResponse(
            expired=swept.expired, abandoned=swept.abandoned, deleted=swept.deleted
        )
        response.duration.FromNanoseconds(round((loop.time() - started) * NS))
        return response

    async def Backup(
        self, request: admin_pb2.BackupRequest, call: Call
    ) -> AsyncIterator[admin_pb2.BackupResponse]:
        """Write a checked copy beside the server and stream the progress."""
        info = self._engine.info
        if info is None or not info.backup:
            raise Unsupported("this store cannot be backed up by the server; use its own tools")
        self._backups.check(request.path)
        async with self._backups.turn():
            # Looked at in turn: another one may have taken the name meanwhile.
            target = self._backups.target(request.path, self._engine.clock.now_ns())
            async for message in self._copy(target):
                yield message

    async def _copy(self, target: Path) -> AsyncIterator[admin_pb2.BackupResponse]:
        news = asyncio.Event()
        at = (0, 0)

        def progress(done: int, total: int) -> None:
            nonlocal at
            at = (done, total)
            news.set()

        copying: asyncio.Task[BackupInfo] = asyncio.create_task(
            self._engine.store.backup(target, progress)
        )
        copying.add_done_callback(lambda _: news.set())
        try:
            while not copying.done():
                await news.wait()
                news.clear()
                if not copying.done():
                    yield admin_pb2.BackupResponse(done=at[0], total=at[1])
            made = copying.result()
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
        yield admin_pb2.BackupResponse(
            done=at[1],
            total=at[1],
            path=str(made.path),
            size_bytes=made.size_bytes,
            events=made.events,
        )

    async def VerifyAudit(
        self, request: admin_pb2.VerifyAuditRequest, call: Call
    ) -> admin_pb2.VerifyAuditResponse:
        """Check the log of a session."""
        report = await self._engine.verify(session_ref(request.session_id))
        return admin_pb2.VerifyAuditResponse(
            valid=report.valid,
            events=report.events,
            violations=[
                admin_pb2.AuditViolation(version=each.version, kind=each.kind, detail=each.detail)
                for each in report.violations
            ],
        )

    async def GetProviderHealth(
        self, request: admin_pb2.GetProviderHealthRequest, call: Call
    ) -> admin_pb2.GetProviderHealthResponse:
        """Tell whether the payment provider answers."""
        found = await self._provider_health()
        response = admin_pb2.GetProviderHealthResponse(
            provider=found.provider,
            available=found.available,
            detail=found.detail,
            is_simulated=found.is_simulated,
        )
        response.checked_at.FromNanoseconds(found.checked_ns)
        return response
