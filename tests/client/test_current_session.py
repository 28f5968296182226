"""The current session belongs to one thread or task, and to nobody else."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from maitred.client import (
    AsyncClient,
    AsyncSessionHandle,
    Client,
    NoCurrentSession,
    SessionHandle,
    current_session,
)


def current_id() -> str:
    """What a tool without arguments finds."""
    return str(current_session().session_id)


def test_without_a_session_there_is_none() -> None:
    """A tool that is called outside of a session is told so."""
    with pytest.raises(NoCurrentSession):
        current_session()


def test_nested_sessions_restore_the_outer_one() -> None:
    """Leaving the inner session makes the outer one current again, also after an error."""
    client = AsyncClient()
    seen = []
    with client.session("outer") as outer:
        with suppress(KeyError), client.session("inner"):
            seen.append(current_id())
            raise KeyError
        seen.append(current_id())
        with outer:
            seen.append(current_id())
        seen.append(current_id())

    assert seen == ["inner", "outer", "outer", "outer"]
    with pytest.raises(NoCurrentSession):
        current_session()


def test_the_kind_of_handle_is_checked() -> None:
    """A tool that awaits is not handed a handle that blocks."""
    with Client() as blocking, blocking.session("s"):
        assert current_session(SessionHandle).session_id == "s"
        with pytest.raises(NoCurrentSession):
            current_session(AsyncSessionHandle)


async def test_tasks_do_not_see_each_other() -> None:
    """Two tasks at the same time each find their own session, though they share the handles."""
    client = AsyncClient()
    both_inside = asyncio.Barrier(2)
    shared = client.session("shared")

    async def serve(session_id: str) -> list[str]:
        with client.session(session_id):
            await both_inside.wait()
            seen = [current_id()]
            with shared:
                await both_inside.wait()
                seen.append(current_id())
            await both_inside.wait()
            seen.append(current_id())
            return seen

    found = list(await asyncio.gather(serve("a"), serve("b")))

    assert found == [["a", "shared", "a"], ["b", "shared", "b"]]


def test_threads_do_not_see_each_other() -> None:
    """A thread begins without a session and keeps its own."""
    client = Client()
    both_inside = threading.Barrier(2)
    found: dict[str, str] = {}
    bare: list[bool] = []

    def serve(session_id: str) -> None:
        try:
            current_session()
        except NoCurrentSession:
            bare.append(True)
        with client.session(session_id):
            both_inside.wait(10)
            found[session_id] = current_id()
            both_inside.wait(10)

    with client.session("main"):
        threads = [threading.Thread(target=serve, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        found["main"] = current_id()
    client.close()

    assert bare == [True, True]
    assert found == {"a": "a", "b": "b", "main": "main"}
