"""What holds for every test: the effort of properties, readable asserts, a quiet transport."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import Phase, settings

from maitred.server.telemetry import logging

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

# Read by grpc when it is first imported: its notes on connections that a test cuts are noise.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# A contract suite is a library, whose asserts pytest would not explain by itself.
pytest.register_assert_rewrite("maitred.server.testing.stores", "maitred.server.testing.providers")

# No deadline: two tests share a core, and a slow example is no wrong one. Blobs let a failure of
# another machine be repeated with @reproduce_failure.
settings.register_profile("dev", deadline=None, print_blob=True, max_examples=50)
settings.register_profile(
    "ci", deadline=None, print_blob=True, max_examples=200, phases=set(Phase) - {Phase.explain}
)
settings.register_profile("campaign", deadline=None, print_blob=True, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A test that configures the log of the process leaves nothing of it to the next."""
    yield
    if structlog.is_configured():
        logging.configure(stream=sys.__stderr__)
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL that the tests of one process share; each has a database of its own."""
    from tests.support.postgres import running_postgres  # its driver is needed by few

    with running_postgres() as server:
        yield server
