"""The standard health service, so that probes and load balancers know when to send calls.

Not the package's servicer: that one writes to watchers while it holds a lock, so that one stalled
watcher could keep a server from stopping, and its watches never end by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from maitred.server.app.grpc_door import Bodies, OpenDoor, abort
from maitred.server.app.pipeline.quotas import Places
from maitred.server.app.pipeline.refusals import to_wire
from maitred.server.errors import MaitredError

MAX_WATCHES: Final = 1024
"""Watches at once. They need no token; load balancers have one for each connection."""

SERVICE = "grpc.health.v1.Health"

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


class HealthService:
    """One status for the whole server and each of its services."""

    def __init__(self, services: Iterable[str], bodies: Bodies) -> None:
        """Serve the status of these services; `bodies` is told of each request that has come."""
        self._known = {"", *services}
        self._status: int = NOT_SERVING
        self._changed = asyncio.Event()
        self._ending = False
        self._bodies = bodies
        self._places = Places(MAX_WATCHES)

    def set_serving(self, *, serving: bool = True) -> None:
        """Say whether calls are welcome; once shut down, they are not."""
        if not self._ending:
            self._set(SERVING if serving else NOT_SERVING)

    def shut_down(self) -> None:
        """Say that no more calls are welcome, and end every watch after it was told."""
        self._ending = True
        self._set(NOT_SERVING)

    def _set(self, status: int) -> None:
        self._status = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _request(self, context: Any) -> HealthCheckRequest:
        request: HealthCheckRequest
        try:
            request = await self._bodies.read(context)
        except MaitredError as error:
            await abort(to_wire(error), context)
        return request

    async def check(self, _: object, context: Any) -> HealthCheckResponse:
        """Answer the status now."""
        request = await self._request(context)
        if request.service not in self._known:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=self._status)

    async def watch(self, _: object, context: Any) -> AsyncIterator[HealthCheckResponse]:
        """Answer the status now and whenever it changes."""
        request = await self._request(context)
        with self._places.take(context.peer()) as there_is:
            if not there_is:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "too many health watches; use Check"
                )
            async for told in self._changes(request):
                yield told

    async def _changes(self, request: HealthCheckRequest) -> AsyncIterator[HealthCheckResponse]:
        if request.service not in self._known:
            yield HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        told = None
        while True:
            changed = self._changed
            if request.service in self._known and self._status != told:
                told = self._status
                yield HealthCheckResponse(status=told)
            if self._ending:
                return
            # Looked at again only if nothing happened while the message was being written.
            if changed is self._changed:
                await changed.wait()

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """What to add to a grpc.aio server."""
        requests, respond = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        made = grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.stream_unary_rpc_method_handler(self.check, requests, respond),
                "Watch": grpc.stream_stream_rpc_method_handler(self.watch, requests, respond),
            },
        )
        return OpenDoor(made, self._bodies)
