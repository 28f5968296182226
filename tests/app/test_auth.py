"""Tokens: who calls, and what a token file may hold."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tests.app.conftest import ADD_ITEM, FILES, Serve, Tokens, read_failure

from maitred.server.app.pipeline.auth import GRACE_S, LOCAL, Authenticator, add_token, parse_expiry
from maitred.server.config import SettingsError
from maitred.server.errors import Unauthenticated
from maitred.v1 import order_pb2, session_pb2
from maitred.v1.common_pb2 import Binding, Role

ROLES = [role for role in Role.values() if role]
METHODS = [
    (f"{service.name}/{method.name}", method)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def bearer(token: str) -> list[str | bytes]:
    """Write a token as a call carries it."""
    return [f"Bearer {token}"]


def test_a_token_stands_for_its_actor(tokens: Tokens) -> None:
    """A token is answered with the name, role and session that its line gives it."""
    found = Authenticator(tokens.path).authenticate(bearer(tokens.by_role[Role.ROLE_VIEWER]))

    assert (found.name, found.role, found.binding, found.bound_to) == (
        "role_viewer",
        Role.ROLE_VIEWER,
        Binding.BINDING_SESSION,
        "mine",
    )


def test_the_file_holds_no_token_and_nobody_else_reads_it(tokens: Tokens) -> None:
    """Only digests are stored, in a file of mode 0600."""
    text = tokens.path.read_text()

    assert not any(token in text for token in tokens.by_role.values())
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    assert {"name", "role", "digest"} <= set(json.loads(text.splitlines()[0]))


@pytest.mark.parametrize(
    "authorization",
    [[], [""], ["Bearer "], ["Bearer mtd_unknown"], ["Basic abc"], [b"\xff\xfe"]],
)
def test_whoever_shows_no_known_token_is_refused(
    tokens: Tokens, authorization: list[str | bytes]
) -> None:
    """Without a known token a call is UNAUTHENTICATED."""
    with pytest.raises(Unauthenticated):
        Authenticator(tokens.path).authenticate(authorization)


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    """A token ends at its expiry."""
    path, now_s = tmp_path / "t", [time.time()]
    expires_at = datetime.fromtimestamp(now_s[0], UTC) + timedelta(minutes=1)
    token = add_token(path, "a", Role.ROLE_AGENT, expires_at=expires_at)
    authenticator = Authenticator(path, now_s=lambda: now_s[0])
    assert authenticator.authenticate(bearer(token)).name == "a"

    now_s[0] += 61

    with pytest.raises(Unauthenticated, match="expired"):
        authenticator.authenticate(bearer(token))


def test_without_a_file_callers_are_local_with_every_right() -> None:
    """No token file means local callers with every right."""
    assert Authenticator(None).authenticate([]) is LOCAL
    assert LOCAL.role == Role.ROLE_ADMIN


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A new line works, and a removed one does not, a second later and without a restart."""
    path, monotonic = tmp_path / "t", [0.0]
    old = add_token(path, "old", Role.ROLE_AGENT)
    authenticator = Authenticator(path, monotonic=lambda: monotonic[0])
    path.unlink()
    new = add_token(path, "new", Role.ROLE_AGENT)
    monotonic[0] += 2

    assert authenticator.authenticate(bearer(new)).name == "new"
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(bearer(old))


def empty(path: Path) -> None:
    """Put rubbish where tokens were."""
    path.write_text("not json\n")


def doubled(path: Path) -> None:
    """Give two tokens one name."""
    path.write_text(path.read_text() * 2)


@pytest.mark.parametrize("spoil", [Path.unlink, empty, doubled], ids=["gone", "rubbish", "doubled"])
def test_tokens_outlive_their_file_by_seconds_only(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """A file that goes or becomes wrong lets nobody in after a grace, until it can be read."""
    path, monotonic = tmp_path / "t", [0.0]
    token = add_token(path, "a", Role.ROLE_AGENT)
    before = path.read_text()
    authenticator = Authenticator(path, monotonic=lambda: monotonic[0])
    changes: list[bool] = []
    authenticator.listeners.append(lambda: changes.append(authenticator.closed))
    spoil(path)

    monotonic[0] = 2.0
    assert authenticator.authenticate(bearer(token)).name == "a"

    monotonic[0] += GRACE_S + 0.1
    with pytest.raises(Unauthenticated, match="cannot read its tokens"):
        authenticator.authenticate(bearer(token))

    path.write_text(before)
    monotonic[0] += 2.0
    assert authenticator.authenticate(bearer(token)).name == "a"
    assert changes == [True, False]


def test_a_file_that_is_replaced_in_time_was_never_missed(tmp_path: Path) -> None:
    """An editor, or a mount that swaps a link, may take the file away for a moment."""
    path, monotonic = tmp_path / "t", [0.0]
    token = add_token(path, "a", Role.ROLE_AGENT)
    authenticator = Authenticator(path, monotonic=lambda: monotonic[0])
    aside = path.rename(tmp_path / "aside")
    monotonic[0] = 2.0
    assert authenticator.authenticate(bearer(token)).name == "a"

    aside.rename(path)
    monotonic[0] = 4.0
    assert authenticator.authenticate(bearer(token)).name == "a"
    monotonic[0] += 2 * GRACE_S
    assert authenticator.authenticate(bearer(token)).name == "a"


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """A second token of the same name is refused where it is made and where it is read."""
    path = tmp_path / "t"
    add_token(path, "bob", Role.ROLE_AGENT)

    with pytest.raises(SettingsError, match="has a token named bob already"):
        add_token(path, "bob", Role.ROLE_STAFF)

    assert len(path.read_text().splitlines()) == 1
    doubled(path)
    with pytest.raises(SettingsError, match=r"line 2: the name bob stands in line 1"):
        Authenticator(path)


@pytest.mark.parametrize("first", ["Bearer {}", "Bearer mtd_other", ""])
def test_two_authorizations_are_refused(tokens: Tokens, first: str) -> None:
    """Whichever of two would hold, a proxy may have looked at the other."""
    token = tokens.by_role[Role.ROLE_ADMIN]
    authorization: list[str | bytes] = [first.format(token), f"Bearer {token}"]

    with pytest.raises(Unauthenticated, match="twice"):
        Authenticator(tokens.path).authenticate(authorization)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"name": "a"}',
        '{"name": "a", "role": "king", "digest": "00"}',
        '{"name": "a", "role": "agent", "digest": "00"}',
        f'{{"name": "a", "role": "viewer", "digest": "{"00" * 32}"}}',
        f'{{"name": "a", "role": "agent", "session_id": "s", "digest": "{"00" * 32}"}}',
        f'{{"name": "a", "role": "agent", "digest": "{"00" * 32}", "extra": 1}}',
        f'{{"name": "maitred", "role": "agent", "digest": "{"00" * 32}"}}',
        f'{{"name": "a", "role": "agent", "digest": "{"00" * 32}", "expires_at": "soon"}}',
        '{"name": "a", "role": "agent", "digest": 5}',
    ],
)
def test_a_wrong_line_is_named_at_start(tmp_path: Path, line: str) -> None:
    """A wrong line is an error of one line that names file and number."""
    path = tmp_path / "t"
    path.write_text(f"# a comment\n{line}\n")

    with pytest.raises(SettingsError, match=r"t, line 2: ") as caught:
        Authenticator(path)

    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A token file that is not there keeps the server from starting, rather than open it to all."""
    with pytest.raises(SettingsError, match="does not exist"):
        Authenticator(tmp_path / "none")


def test_a_line_is_appended_also_to_an_unfinished_one(tmp_path: Path) -> None:
    """A file without a final newline does not swallow the next token."""
    path = tmp_path / "t"
    first = add_token(path, "a", Role.ROLE_AGENT)
    os.truncate(path, path.stat().st_size - 1)

    second = add_token(path, "b", Role.ROLE_STAFF)

    authenticator = Authenticator(path)
    assert authenticator.authenticate(bearer(first)).name == "a"
    assert authenticator.authenticate(bearer(second)).name == "b"


@pytest.mark.parametrize("text", ["30d", "12h", "90m", "2100-01-01", "2100-01-01T00:00:00+02:00"])
def test_expiries_are_read(text: str) -> None:
    """An expiry is a span from now or a time."""
    assert parse_expiry(text) > datetime.now(UTC)


@pytest.mark.parametrize("role", ROLES, ids=Role.Name)
async def test_every_rpc_demands_its_role(
    serve: Serve, tokens: Tokens, role: Role.ValueType
) -> None:
    """For every rpc and every role: refused below the contract's minimum, let in from there on."""
    from maitred.v1 import common_pb2

    rig = await serve(tokens=tokens.path)
    token = tokens.by_role[role]

    for name, method in METHODS:
        minimum = method.GetOptions().Extensions[common_pb2.method].minimum_role
        bound = "session_id" in method.input_type.fields_by_name
        request = session_pb2.GetSessionRequest(session_id="mine") if bound else b""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        if name in ("PaymentService/ListPayments", "AdminService/VerifyAudit"):
            data = b"\x0a\x04mine"
        reason = ""
        try:
            if method.server_streaming:
                await rig.call.stream(name, data, token).read()
            else:
                await rig.call(name, data, token)
        except grpc.aio.AioRpcError as error:
            reason = read_failure(error).reason
        if role < minimum:
            assert reason == "PERMISSION_DENIED", name
        else:
            assert reason in ("", "INVALID_FIELD"), (name, reason)


async def test_a_viewer_sees_one_session(serve: Serve, tokens: Tokens) -> None:
    """A VIEWER is refused every session but its own, in calls and in streams, and an empty id."""
    rig = await serve(tokens=tokens.path)
    token = tokens.by_role[Role.ROLE_VIEWER]
    open_to_viewers = [
        (name, method)
        for name, method in METHODS
        if name
        in {
            f"{full.partition('.v1.')[2]}"
            for full, each in rig.pipeline.methods.items()
            if each.minimum_role == Role.ROLE_VIEWER and each.bindings
        }
    ]
    assert open_to_viewers

    for name, method in open_to_viewers:
        for session_id in ("other", ""):
            data = session_pb2.GetSessionRequest(session_id=session_id).SerializeToString()
            stream = method.server_streaming
            call = rig.call.stream(name, data, token).read if stream else None
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call() if call else rig.call(name, data, token))
            assert read_failure(caught.value).reason == "PERMISSION_DENIED"


async def test_a_call_without_token_is_unauthenticated(serve: Serve, tokens: Tokens) -> None:
    """Who the caller is goes before what the request is: malformed bytes tell nothing."""
    rig = await serve(tokens=tokens.path)

    for data in (b"\xff", order_pb2.AddItemRequest(session_id="s", item="x")):
        failure = await rig.call.fails(ADD_ITEM, data)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
    failure = await rig.call.fails(ADD_ITEM, b"\xff", token=tokens.by_role[Role.ROLE_AGENT])
    assert failure.reason == "MALFORMED_REQUEST"
