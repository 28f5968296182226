"""gRPC: its calls and streams, translated into those of the pipeline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from maitred.server.app.grpc_door import BODY_S, CALLER, Bodies, Context, Door, Handler, abort
from maitred.server.app.pipeline.methods import Method
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.app.pipeline.refusals import WireError


class GrpcAdapter:
    """Serves every rpc of a pipeline by grpc.aio."""

    def __init__(self, pipeline: Pipeline, bodies: Bodies | None = None) -> None:
        """Make a handler for each rpc."""
        self._pipeline = pipeline
        self._bodies = bodies or Bodies(BODY_S)
        handlers = {f"/{name}": self._handler(each) for name, each in pipeline.methods.items()}
        self._doors = (Door(handlers, pipeline, self._bodies),)

    @property
    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What to add to a grpc.aio server."""
        return self._doors

    def _handler(self, method: Method) -> Handler:
        # Without a deserializer the raw bytes arrive here, so that those which are no message of
        # the type are told apart from a failure, and only after the caller is known.
        if method.streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return grpc.stream_unary_rpc_method_handler(self._unary(method))

    def _unary(self, method: Method) -> Callable[[object, Context], Awaitable[bytes]]:
        read = self._bodies.read
        run = self._pipeline.unary(method, keeps_deadlines=True)

        async def unary(_: object, context: Context) -> bytes:
            caller = CALLER.get()
            try:
                raw = await read(context)
            except BaseException as error:  # noqa: BLE001  it is told, or raised again
                time_left = context.time_remaining()
                late = time_left is not None and time_left <= 0
                await abort(self._pipeline.failure(method, caller, error, late=late), context)
            try:
                return await run(raw, caller, context.time_remaining())
            except WireError as error:
                await abort(error, context)

        return unary

    def _stream(self, method: Method) -> Callable[[object, Context], Awaitable[None]]:
        async def stream(_: object, context: Context) -> None:
            opened = self._pipeline.stream(method, CALLER.get(), keeps_deadlines=True)
            try:
                async with opened:
                    raw = await self._bodies.read(context)
                    started = False
                    async for data in opened.messages(raw, context.time_remaining()):
                        if started:
                            await context.write(data)
                        else:
                            # Cancelled while the first message is being sent, gRPC would send the
                            # headers twice and the status never.
                            opened.interruptible = False
                            await context.write(data)
                            opened.interruptible = started = True
            except WireError as error:
                await abort(error, context)

        return stream
