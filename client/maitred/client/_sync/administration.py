# generated: edit _async and run scripts/unasync.py
"""Administration: for those who run the server."""

from __future__ import annotations

from collections.abc import Iterator

from maitred.client._sync.calls import Calls
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


class Administration:
    """The methods of the AdminService."""

    _calls: Calls

    def get_server_info(self) -> GetServerInfoResponse:
        """Tell what this server is."""
        return self._calls.call(GetServerInfoRequest(), GetServerInfoResponse)

    def sweep_expired(self, *, limit: int = 0) -> SweepExpiredResponse:
        """Look after sessions whose time has come, at once."""
        return self._calls.call(SweepExpiredRequest(limit=limit), SweepExpiredResponse)

    def backup(self, *, path: str = "") -> Iterator[BackupResponse]:
        """Copy the data beside the server; the last progress names the finished copy.

        Raises: Unsupported, AlreadyExists.
        """
        stream = self._calls.stream(BackupRequest(path=path), BackupResponse)
        try:
            while (progress := stream.read()) is not None:
                yield progress
        finally:
            stream.cancel()

    def verify_audit(self, *, session_id: str) -> VerifyAuditResponse:
        """Check the hash chain and the fold of a session."""
        request = VerifyAuditRequest(session_id=session_id)
        return self._calls.call(request, VerifyAuditResponse)

    def get_provider_health(self) -> GetProviderHealthResponse:
        """Tell whether the payment provider answers."""
        return self._calls.call(GetProviderHealthRequest(), GetProviderHealthResponse)
