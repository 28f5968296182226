"""The composition root: settings, parts, adapter, and the gRPC server of them all."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from maitred.server.app import health, metrics_page, reflection, tls, webhooks
from maitred.server.app.admin import version
from maitred.server.app.grpc_adapter import GrpcAdapter
from maitred.server.app.grpc_door import Bodies
from maitred.server.app.listening import (
    bind_tcp,
    bind_unix,
    channel_options,
    check_exposure,
    raise_file_limit,
    split_address,
)
from maitred.server.app.pipeline.auth import Authenticator
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.app.pipeline.quotas import Quotas
from maitred.server.app.wiring import Parts, open_provider, wire
from maitred.server.config import Settings, SettingsError
from maitred.server.engine.clock import Clock, Ids, SteadyClock
from maitred.server.engine.engine import Engine
from maitred.server.http import MissingExtra
from maitred.server.http.listener import HttpBindError, HttpListener
from maitred.server.stores import create_store, without_password
from maitred.server.stores.base import Store, StoreError
from maitred.server.telemetry import metrics

_log = structlog.get_logger(__name__)

SWITCH_INTERVAL_S: Final = 0.0005
"""How often a busy loop hands the interpreter to the store's thread; a tenth of the default."""

STREAMS_END_S: Final = 1.0
"""How long watches get to end by themselves before they are ended."""

LOOK_S: Final = 1.0


class StartError(Exception):
    """The server cannot start; the message is one line for people."""


class Server:
    """A server in this process: in the one of `maitred serve`, or in that of a test."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        """Prepare a server; nothing is opened before `start`.

        A store that is given is opened and closed by the server all the same.
        """
        self.settings = settings
        self._given_store = store
        self._clock: Clock = clock or SteadyClock(
            hold_s=settings.clock_hold_seconds, settle_s=settings.erasure_hold_seconds
        )
        self._ids = ids
        self.bound_port = 0
        """The TCP port, once started; 0 where none is listened on."""
        self.metrics_port = 0
        self._parts: Parts | None = None
        self.pipeline: Pipeline | None = None
        """What every transport serves, once started."""
        self._authenticator: Authenticator | None = None
        self._health: health.HealthService | None = None
        self._grpc: grpc.aio.Server | None = None
        self._metrics: HttpListener | None = None
        self._webhooks: HttpListener | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def engine(self) -> Engine:
        """The engine, once started."""
        assert self._parts is not None
        return self._parts.engine

    @property
    def parts(self) -> Parts:
        """Everything that was put together, once started."""
        assert self._parts is not None
        return self._parts

    @property
    def address(self) -> str:
        """What a client connects to: the TCP address, else the UNIX socket."""
        if self.bound_port:
            host, _ = split_address(self.settings.listen)
            return f"[{host}]:{self.bound_port}" if ":" in host else f"{host}:{self.bound_port}"
        return f"unix:{self.settings.unix_socket}"

    async def start(self) -> None:
        """Open the store, then serve.

        Raises: StartError, SettingsError; nothing is left open then.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            await self._start()
        except (StoreError, HttpBindError, MissingExtra) as error:
            await self._abandon()
            raise StartError(" ".join(str(error).split())) from error
        except BaseException:
            await self._abandon()
            raise

    async def _start(self) -> None:
        settings = self.settings
        check_exposure(settings)
        credentials = tls.server_credentials(settings)
        tokens = Path(settings.tokens) if settings.tokens else None
        self._authenticator = Authenticator(tokens)
        store = self._given_store or open_store(settings, self._clock)
        provider = await open_provider(settings, self._clock)
        # From here on a start that fails lets go of it all.
        parts = self._parts = wire(settings, store, self._clock, self._ids, provider)
        pipeline = self.pipeline = Pipeline(
            parts.services,
            self._authenticator,
            unary_timeout_s=settings.unary_timeout_s,
            require_request_id=settings.require_request_id,
            log_calls=settings.log_level == "debug",
            quotas=Quotas(settings.caller_calls_per_s, settings.caller_streams),
        )
        bodies = Bodies(settings.body_timeout_s)
        self._health = health.HealthService(pipeline.service_names, bodies)
        server = self._grpc = grpc.aio.server(options=channel_options(settings))
        server.add_generic_rpc_handlers(
            (*GrpcAdapter(pipeline, bodies).handlers, self._health.handler)
        )
        if settings.reflection:
            known = (*pipeline.service_names, health.SERVICE)
            server.add_generic_rpc_handlers(reflection.handlers(known))
        if settings.listen:
            self.bound_port = bind_tcp(server, settings.listen, credentials)
        if settings.unix_socket:
            bind_unix(server, Path(settings.unix_socket))
        info = await parts.start()
        if provider is not None and settings.webhook_listen:
            self._webhooks = await webhooks.listen(settings, parts.coordinator, provider.name)
        if settings.metrics_listen:
            self._metrics = await metrics_page.listen(settings.metrics_listen, self._sample)
            self.metrics_port = self._metrics.bound_port
        await server.start()
        parts.engine.watchdog.listeners.append(self._serving_changed)
        self._authenticator.listeners.append(self._serving_changed)
        self._serving_changed()
        if settings.tokens:
            self._looking = asyncio.create_task(self._look_at_tokens(self._authenticator))
        _log.info(
            "serving",
            version=version(),
            listen=self.address if self.bound_port else "none",
            unix_socket=settings.unix_socket or "none",
            tls="mutual" if settings.tls_client_ca else "yes" if settings.tls_cert else "no",
            store=info.engine,
            data=without_password(settings.data),
            payments=settings.payments,
            metrics_port=self.metrics_port or "none",
        )
        if self._authenticator.is_open:
            _log.warning("no tokens are set: whoever is on this machine has every right")

    def _serving_changed(self, _: object = None) -> None:
        """Send callers to another server while this one cannot reach its store or its tokens."""
        assert self._authenticator is not None
        metrics.TOKENS_READABLE.set(not self._authenticator.closed)
        if self._health is not None:
            lost = self.engine.watchdog.failure is not None or self._authenticator.closed
            self._health.set_serving(serving=not lost)

    async def _look_at_tokens(self, authenticator: Authenticator) -> None:
        """Follow the token file, also while nobody calls: that may be because it was lost."""
        while True:
            await asyncio.sleep(LOOK_S)
            authenticator.reload_if_changed()

    def _sample(self) -> None:
        """Set the gauges that are only read when somebody asks."""
        engine = self.engine
        metrics.WATCHERS.set(engine.hub.watchers)
        metrics.LOCKS.set(len(engine.locks))
        metrics.LOCK_WAITS.value = engine.locks.waits
        metrics.LOCK_TIMEOUTS.value = engine.locks.timeouts
        metrics.CACHE_SIZE.set(len(engine.cache))
        metrics.COMMITS_IN_FLIGHT.set(engine.committer.in_flight)
        metrics.EVENTS_PUBLISHED.value = engine.committer.published

    @property
    def webhook_url(self) -> str:
        """Where the provider's messages come in; empty where none do."""
        return self._webhooks.url + webhooks.PATH if self._webhooks is not None else ""

    async def _abandon(self) -> None:
        """Let go of what a failed start holds."""
        if self._looking is not None:
            self._looking.cancel()
        if self._webhooks is not None:
            await self._webhooks.stop(0)
        if self._metrics is not None:
            await self._metrics.stop(0)
        if self._grpc is not None:
            await self._grpc.stop(None)
        if self._parts is not None:
            await self._parts.stop()
        self._parts = None

    async def stop(self, grace_s: float | None = None) -> None:
        """End in good order: watches at once, calls when they have had their grace, then the store.

        A second call, with less grace, hastens the first.
        """
        grace_s = self.settings.grace_s if grace_s is None else grace_s
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        elif self._grpc is not None:
            await self._grpc.stop(grace_s)
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        if self._grpc is None or self.pipeline is None or self._parts is None:
            return
        _log.info("stopping", grace_s=grace_s, streams=len(self.pipeline.streams))
        if self._health is not None:
            self._health.shut_down()
        if self._looking is not None:
            self._looking.cancel()
        self.engine.hub.stop()
        if self._webhooks is not None:
            await self._webhooks.stop(grace_s)
        await self.pipeline.streams_ended(min(STREAMS_END_S, grace_s))
        self.pipeline.end_streams()
        await self._grpc.stop(grace_s)
        if self._metrics is not None:
            await self._metrics.stop(0)
        await self._parts.stop()
        _log.info("stopped")

    def reload(self) -> None:
        """Read the tokens again."""
        if self._authenticator is not None:
            self._authenticator.reload()

    async def wait_for_termination(self) -> None:
        """Wait until the server has stopped."""
        assert self._grpc is not None
        await self._grpc.wait_for_termination()
        if self._stopping is not None:
            await self._stopping


def open_store(settings: Settings, clock: Clock | None = None, *, read_only: bool = False) -> Store:
    """Choose the store of the settings; it is not opened yet.

    One that keeps no time of its own keeps that of `clock`. `read_only` is for whoever looks at
    what nobody serves: opening it then changes nothing.

    Raises: SettingsError.
    """
    options: dict[str, Any] = {"queue_commits": settings.store_queue}
    match settings.data.lower().partition(":")[0]:
        case "memory":
            options |= {} if clock is None else {"clock_ns": clock.now_ns}
        case "redis" | "rediss":
            options["accept_data_loss"] = settings.accept_data_loss
        case "postgres" | "postgresql":
            options["linger_s"] = settings.max_batch_wait_s
        case _:
            options["linger_s"] = settings.max_batch_wait_s
            options["max_bytes"] = settings.store_max_bytes or None
            options["read_only"] = read_only
            options |= {} if clock is None else {"clock_ns": clock.now_ns}
    if settings.store_max_bytes and "max_bytes" not in options:
        raise SettingsError("store_max_bytes bounds an SQLite file; this engine has its own bounds")
    try:
        return create_store(settings.data, **options)
    except ValueError as error:
        raise SettingsError(f"data: {error}") from None


def _set_next(first: asyncio.Event, second: asyncio.Event) -> None:
    (second if first.is_set() else first).set()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the grace. SIGHUP reads tokens anew.

    Raises: StartError, SettingsError.
    """
    raise_file_limit()
    server = Server(settings)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    hasty = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        loop.add_signal_handler(each, _set_next, told, hasty)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    try:
        await server.start()
        await told.wait()
        stopping = asyncio.create_task(server.stop())
        waiting = asyncio.create_task(hasty.wait())
        await asyncio.wait((stopping, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await server.stop(0)
        waiting.cancel()
        await stopping
    finally:
        for each in (*signals, signal.SIGHUP):
            loop.remove_signal_handler(each)
