"""TLS: encrypted, mutual, and renewed without a restart."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest
import trustme
from tests.app.conftest import Caller

from maitred.server.app import tls
from maitred.server.app.server import Server
from maitred.server.config import Settings, SettingsError
from maitred.server.testing.servers import running_server
from maitred.v1 import admin_pb2

INFO = admin_pb2.GetServerInfoRequest()


class Authority:
    """Issues certificates into a directory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.root = folder / f"{name}-ca.pem"
        self.root.write_bytes(self.ca.cert_pem.bytes())

    def issue(self, name: str) -> tuple[Path, Path]:
        """Write a certificate for this machine and its key, each in one step."""
        issued = self.ca.issue_cert("localhost", "127.0.0.1")
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        for path, data in ((cert, chain), (key, issued.private_key_pem.bytes())):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.replace(path)
        return cert, key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of this test's own."""
    return Authority(tmp_path, "first")


def settings(cert: Path, key: Path, client_ca: Path | None = None) -> Settings:
    """Settings with TLS."""
    return Settings(
        listen="127.0.0.1:0",
        data="memory://",
        tls_cert=str(cert),
        tls_key=str(key),
        tls_client_ca=str(client_ca or ""),
    )


async def ask(
    server: Server, root: Path, cert: Path | None = None, key: Path | None = None
) -> admin_pb2.GetServerInfoResponse:
    """Ask a server over a fresh connection."""
    credentials = grpc.ssl_channel_credentials(
        root.read_bytes(),
        None if key is None else key.read_bytes(),
        None if cert is None else cert.read_bytes(),
    )
    # A pool of its own, else a channel would take over another one's connection.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(server.address, credentials, options) as channel:
        answer: admin_pb2.GetServerInfoResponse = await Caller(channel)(
            "AdminService/GetServerInfo", INFO, timeout=5
        )
        return answer


async def test_calls_are_encrypted(authority: Authority) -> None:
    """A client that trusts the authority is served; one that speaks plaintext is not."""
    async with running_server(settings(*authority.issue("server"))) as server:
        assert (await ask(server, authority.root)).store
        async with grpc.aio.insecure_channel(server.address) as channel:
            failure = await Caller(channel).fails("AdminService/GetServerInfo", INFO, timeout=5)

    assert failure.code is grpc.StatusCode.UNAVAILABLE


async def test_certificates_are_renewed_without_a_restart(
    authority: Authority, tmp_path: Path
) -> None:
    """New connections get the new certificate once both files are a pair; until then the old."""
    cert, key = authority.issue("server")
    other = Authority(tmp_path, "second")
    async with running_server(settings(cert, key)) as server:
        await ask(server, authority.root)
        old_key = key.read_bytes()

        other.issue("server")
        new_key = key.read_bytes()
        key.write_bytes(old_key)
        await ask(server, authority.root)

        key.write_bytes(new_key)
        await ask(server, other.root)
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(server, authority.root)


async def test_mutual_tls_demands_a_certificate(authority: Authority, tmp_path: Path) -> None:
    """With a client authority set, only callers with its certificate are served."""
    clients = Authority(tmp_path, "clients")
    chosen = settings(*authority.issue("server"), client_ca=clients.root)
    async with running_server(chosen) as server:
        cert, key = clients.issue("client")
        assert (await ask(server, authority.root, cert, key)).store
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(server, authority.root)


def test_files_that_are_no_pair_are_refused_at_start(authority: Authority) -> None:
    """A key that does not fit, an encrypted one or a missing file is an error of one line."""
    cert, key = authority.issue("server")
    _, other = authority.issue("other")
    for wrong in (
        settings(cert, other),
        settings(cert, Path("/nonexistent")),
        settings(cert, cert),
        settings(cert, key, Path(os.devnull)),
    ):
        with pytest.raises(SettingsError, match="TLS") as caught:
            tls.server_credentials(wrong)
        assert "\n" not in str(caught.value)
