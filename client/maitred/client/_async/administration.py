"""Administration: for those who run the server."""

from __future__ import annotations

from collections.abc import AsyncIterator

from maitred.client._async.calls import AsyncCalls
from maitred.v1.admin_pb2 import (
    BackupRequest,
    BackupResponse,
    GetProviderHealthRequest,
    GetProviderHealthResponse,
    GetServerInfoRequest,
    GetServerInfoResponse,
    SweepExpiredRequest,
    SweepExpiredResponse,
    VerifyAuditRequest,
    VerifyAuditResponse,
)


class AsyncAdministration:
    """The methods of the AdminService."""

    _calls: AsyncCalls

    async def get_server_info(self) -> GetServerInfoResponse:
        """Tell what this server is."""
        return await self._calls.call(GetServerInfoRequest(), GetServerInfoResponse)

    async def sweep_expired(self, *, limit: int = 0) -> SweepExpiredResponse:
        """Look after sessions whose time has come, at once."""
        return await self._calls.call(SweepExpiredRequest(limit=limit), SweepExpiredResponse)

    async def backup(self, *, path: str = "") -> AsyncIterator[BackupResponse]:
        """Copy the data beside the server; the last progress names the finished copy.

        Raises: Unsupported, AlreadyExists.
        """
        stream = self._calls.stream(BackupRequest(path=path), BackupResponse)
        try:
            while (progress := await stream.read()) is not None:
                yield progress
        finally:
            stream.cancel()

    async def verify_audit(self, *, session_id: str) -> VerifyAuditResponse:
        """Check the hash chain and the fold of a session."""
        request = VerifyAuditRequest(session_id=session_id)
        return await self._calls.call(request, VerifyAuditResponse)

    async def get_provider_health(self) -> GetProviderHealthResponse:
        """Tell whether the payment provider answers."""
        return await self._calls.call(GetProviderHealthRequest(), GetProviderHealthResponse)
