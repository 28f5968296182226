"""A second transport: calls by name inside this process, with nothing but bytes in between."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.support.wire import METHODS, read_details

from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.app.pipeline.refusals import WireError


class InProcess:
    """Calls the rpcs of a pipeline as `Wire` calls those of a server."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._unary = {
            name: pipeline.unary(each)
            for name, each in pipeline.methods.items()
            if not each.streaming
        }

    async def __call__(
        self,
        rpc: str,
        request: Message | bytes,
        *,
        token: str = "",
        timeout: float | None = 30.0,
    ) -> Any:
        """Make a call and answer its response; of a stream, the first message."""
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        name = f"maitred.v1.{rpc}"
        caller = self.pipeline.admit((f"Bearer {token}",) if token else ())
        if name in self._unary:
            data = await self._unary[name](raw, caller, timeout)
        else:
            async with self.pipeline.stream(self.pipeline.methods[name], caller) as stream:
                data = await anext(stream.messages(raw, timeout))
        return GetMessageClass(METHODS[rpc].output_type).FromString(data)

    async def outcome(self, rpc: str, request: Message | bytes, **options: Any) -> Any:
        """Make a call and answer its response, or its failure."""
        try:
            return await asyncio.create_task(self(rpc, request, **options))
        except WireError as error:
            return read_details(error.status, error.proto.message, error.proto.details)
