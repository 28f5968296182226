"""Certificates: read at start, and again whenever the files change, without a restart."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import NamedTuple

import grpc
import structlog

from maitred.server.config import Settings, SettingsError

_log = structlog.get_logger(__name__)


class _Files(NamedTuple):
    cert: Path
    key: Path
    client_ca: Path | None

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Tell one state of the files from another."""
        found = (path.stat() for path in self if path is not None)
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files.

        Raises: OSError, among them ssl.SSLError where key and certificate are no pair.
        """
        # gRPC itself takes a bad pair without a word and then fails every handshake.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key, password=_no_password)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
        ca = None if self.client_ca is None else self.client_ca.read_bytes()
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)


def _no_password() -> str:
    """Stand in for the terminal that OpenSSL would ask for a passphrase.

    Raises: OSError.
    """
    raise OSError("the key is encrypted; a server cannot ask for its passphrase")


class _Fetcher:
    """Answers each handshake with new certificates, or None while there are none.

    Called on threads of gRPC.
    """

    def __init__(self, files: _Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamp = files.stamp()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """Look whether the files changed."""
        with self._lock:
            try:
                stamp = self._files.stamp()
                if stamp == self._stamp:
                    return None
                configuration = self._files.load()
            except OSError as error:
                # Half of a pair is replaced, most likely: the next handshake looks again.
                _log.warning(
                    "certificates not reloaded; those of before serve on", problem=str(error)
                )
                return None
            self._stamp = stamp
        _log.info("certificates reloaded", path=str(self._files.cert))
        return configuration


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Make credentials that follow their files; None where no TLS is set.

    Raises: SettingsError.
    """
    if not settings.tls_cert:
        return None
    ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    files = _Files(Path(settings.tls_cert), Path(settings.tls_key), ca)
    try:
        fetcher = _Fetcher(files)
        initial = files.load()
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise SettingsError(f"TLS: cannot use{name or ' the certificate'}: {error}") from None
    return grpc.dynamic_ssl_server_credentials(
        initial,
        fetcher,  # type: ignore[arg-type]  # the stubs forget that None keeps the present one
        require_client_authentication=ca is not None,
    )
