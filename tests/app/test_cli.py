"""The command line, against servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from tests.app.conftest import service

from maitred.server import cli
from maitred.server.cli import main
from maitred.server.cli.words import safe
from maitred.v1.payment_pb2 import CreatePaymentResponse as PaymentResponse

MAITRED = [sys.executable, "-m", "maitred.server"]


class Running(NamedTuple):
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    socket: str

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return run(*arguments, MAITRED_ADDRESS=self.address, **environ)


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return run_in(None, *arguments, **environ)


def run_in(
    directory: Path | None, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory; None stays in this one."""
    return subprocess.run(
        [*MAITRED, *arguments],
        env=clean_environ(environ),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def clean_environ(more: dict[str, str]) -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAITRED_")}
    return kept | more


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Running]:
    """Run `maitred serve` until the end of the block, then with SIGTERM."""
    socket = f"unix:{folder / 'm.sock'}"
    process = subprocess.Popen(
        [
            *(*MAITRED, "serve", "--listen", "127.0.0.1:0", "--data", f"sqlite:{folder / 'm.db'}"),
            *("--unix-socket", str(folder / "m.sock"), "--backup-dir", str(folder / "backups")),
            *("--log-format", "json", *flags),
        ],
        env=clean_environ({}),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            found = json.loads(line)
            if found["event"] == "serving":
                break
        else:
            raise AssertionError("the server did not start")
        yield Running(process, found["listen"], socket)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0
        assert '"stopped"' in rest
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


def grpc_call(server: Running, rpc: str, **fields: object) -> bytes:
    """Make one call with a synchronous channel."""
    name, _, method = rpc.partition("/")
    request = GetMessageClass(service(name).methods_by_name[method].input_type)(**fields)
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary(f"/maitred.v1.{rpc}")
        answer: bytes = call(request.SerializeToString(), timeout=10)
        return answer


def test_a_day_at_the_command_line(tmp_path: Path) -> None:
    """Serve, list, watch to the end, back up, stop by SIGTERM, check; another server is refused."""
    with serving(tmp_path) as server:
        grpc_call(server, "SessionService/CreateSession", session_id="table-7", labels={"t": "7"})
        listed = server.run("sessions", "--label", "t=7")
        by_socket = run("sessions", MAITRED_ADDRESS=server.socket)
        watching = subprocess.Popen(
            [*MAITRED, "watch", "table-7", "--address", server.address],
            env=clean_environ({}),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        first = watching.stdout.readline()
        grpc_call(
            server,
            "ConversationService/RecordTurn",
            session_id="table-7",
            messages=[{"role": 1, "text": "\x1b[2Jhello"}],
        )
        second = watching.stdout.readline()
        backup = server.run("backup", "copy.db")
        again = server.run("backup", "copy.db")
        other = run("serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "m.db"))
        busy = run("check", str(tmp_path / "m.db"))
        same_port = run("serve", "--listen", server.address, "--data", "memory://")
        grpc_call(server, "SessionService/DeleteSession", session_id="table-7", reason="done")
        rest = watching.stdout.read()
        watching.stdout.close()

        assert watching.wait(10) == 0
    checked = run("check", f"sqlite:{tmp_path / 'm.db'}")
    copy = run("check", str(tmp_path / "backups" / "copy.db"))

    assert "table-7" in listed.stdout
    assert listed.stdout == by_socket.stdout
    assert "table-7 at version 1" in first
    assert "turn_recorded" in second
    assert "\x1b" not in second
    assert "was deleted" in rest
    assert Path(backup.stdout.strip()) == tmp_path / "backups" / "copy.db"
    assert (again.returncode, again.stderr.count("\n")) == (4, 1)
    assert "ALREADY_EXISTS" in again.stderr
    assert (other.returncode, "already open in process" in other.stderr) == (1, True)
    assert (busy.returncode, "nothing was checked" in busy.stderr) == (1, True)
    assert same_port.returncode == 2
    assert re.search(r"cannot listen on .* in use", same_port.stderr)
    assert (checked.returncode, "all is well" in checked.stdout) == (0, True)
    assert (copy.returncode, "2 events checked" in copy.stdout) == (0, True)


def test_check_names_what_was_changed(tmp_path: Path) -> None:
    """A byte changed behind the server's back is found, named and an exit status of 1."""
    with serving(tmp_path) as server:
        for name in ("one", "two"):
            grpc_call(server, "SessionService/CreateSession", session_id=name)
    with contextlib.closing(sqlite3.connect(tmp_path / "m.db")) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(events)")]
        assert "facts" in columns
        db.execute("UPDATE events SET facts = CAST(facts || x'2801' AS BLOB) WHERE rowid = 2")

    found = run("check", str(tmp_path / "m.db"))

    assert found.returncode == 1
    assert "session two, version 1: changed" in found.stdout
    assert "session one" not in found.stdout


def test_tokens_are_made_and_demanded(tmp_path: Path) -> None:
    """A token that was made is let in, nobody else is, and the errors say what to do."""
    tokens = str(tmp_path / "tokens.jsonl")
    made = run("token", "bot", "--role", "agent", "--tokens", tokens)
    with serving(tmp_path, "--tokens", tokens) as server:
        without = server.run("sessions")
        with_token = server.run("sessions", MAITRED_TOKEN=made.stdout.strip())
        backup = server.run("backup", MAITRED_TOKEN=made.stdout.strip())

    assert (without.returncode, "MAITRED_TOKEN" in without.stderr) == (4, True)
    assert (with_token.returncode, with_token.stderr) == (0, "no sessions\n")
    assert (backup.returncode, "PERMISSION_DENIED" in backup.stderr) == (4, True)
    assert made.stdout.strip() not in Path(tokens).read_text()


def test_ids_of_chats_are_arguments_as_any_other(tmp_path: Path) -> None:
    """What begins with a dash is an id where no flag is called so."""
    chat, tokens = "-1001234:7", str(tmp_path / "tokens.jsonl")
    viewer = run("token", "wall", "--role", "viewer", "--session", chat, "--tokens", tokens)
    with serving(tmp_path) as server:
        create = {"session_id": chat, "customer_id": chat}
        grpc_call(server, "SessionService/CreateSession", **create)
        listed = server.run("sessions", "--customer", chat)
        grpc_call(server, "SessionService/DeleteSession", session_id=chat, reason="done")
        watched = server.run("watch", chat, "--after", "1")
        nobody = server.run("watch", "-unknown")

    assert viewer.stdout.startswith("mtd_")
    assert chat in listed.stdout
    assert watched.stdout.splitlines()[-1] == "the session was deleted"
    assert "there is no session" in nobody.stderr


def test_the_guest_pays(tmp_path: Path) -> None:
    """`maitred pay` pays a link from any directory, and says so when it cannot."""
    usd = {"minor_units": 900, "currency": "USD"}
    menu = {"menu_id": "default", "currency": "USD"}
    menu["items"] = [{"item_id": "gin", "name": "Gin", "price": usd}]  # type: ignore[assignment]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving(tmp_path) as server:
        grpc_call(server, "MenuService/PutMenu", menu=menu)
        grpc_call(server, "SessionService/CreateSession", session_id="s")
        grpc_call(server, "OrderService/AddItem", session_id="s", item="gin")
        made = PaymentResponse.FromString(
            grpc_call(server, "PaymentService/CreatePayment", session_id="s")
        )
        declined = run_in(elsewhere, "pay", made.payment.url, "--decline")
        paid = run_in(elsewhere, "pay", made.payment.url)
        unknown = run("pay", "nothing", "--dir", str(tmp_path))
        grpc_call(server, "PaymentService/CheckPayment", session_id="s", wait={"seconds": 10})
        listed = server.run("sessions")

    assert (declined.returncode, "declined, 9.00 USD" in declined.stdout) == (0, True)
    assert (paid.returncode, "paid, 9.00 USD" in paid.stdout) == (0, True)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert "completed" in listed.stdout


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, as Linux has it")
def test_starting_costs_less_than_a_second_or_so(tmp_path: Path) -> None:
    """From the command to SERVING takes little work; wall time would measure the other tests."""
    with serving(tmp_path) as server:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    assert cpu_s < 2


def test_nobody_there_is_said_in_one_line(free_port: int) -> None:
    """A server that cannot be reached is one line and an exit status of its own."""
    found = run("sessions", MAITRED_ADDRESS=f"127.0.0.1:{free_port}")

    assert found.returncode == 3
    assert found.stderr.count("\n") == 1
    assert "is maitred serve running?" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["serv"], "unknown command serv; did you mean serve?"),
        (["sessions", "--lable", "x"], "unknown flag --lable; did you mean --label?"),
        (["sessions", "--label", "x"], "is not KEY=VALUE"),
        (["token", "x", "--role", "viewer"], "bound to a session_id"),
        (["token", "x", "--role", "agent", "--expires", "soon"], "30d"),
        (["serve", "--data", "mysql://x"], "unknown store"),
        (["serve", "--listen", "0.0.0.0:1"], "needs tokens"),
        (["serve", "--tokens", "/nonexistent/file"], "does not exist"),
        (["watch"], "required: session"),
        (["watch", "--after"], "expected one argument"),
        (["watch", "--customer", "-100"], "unknown flag --customer"),
        (["serve", "-x"], "unknown flag -x"),
        ([], "required: COMMAND"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    arguments: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What is wrong with a command line is said in one line."""
    monkeypatch.chdir(tmp_path)

    status = main(arguments)

    text = capsys.readouterr().err
    assert status == 2
    assert problem in text
    assert text.count("\n") == 1


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from maitred.server.cli import main
sys.exit(main(sys.argv[2:]))
"""
STRIPE = ["--stripe-api-key", "sk_test_1", "--stripe-success-url", "https://h.example/"]
SERVER = "aiosqlite,grpc_health,grpc_reflection,httptools,protovalidate,rich,structlog,uvicorn"


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        (SERVER, ["serve", "--data", "memory://"], "server"),
        (SERVER, ["check", "m.db"], "server"),
        (SERVER, ["copy", "a.db", "b.db"], "server"),
        ("uvicorn", ["serve", "--data", "memory://", "--metrics-listen", "127.0.0.1:0"], "server"),
        ("psycopg", ["check", "postgresql://127.0.0.1:1/x"], "postgres"),
        ("redis", ["check", "redis://127.0.0.1:1/0"], "redis"),
        (
            "stripe",
            [*"serve --data memory:// --listen 127.0.0.1:0 --payments stripe".split(), *STRIPE],
            "stripe",
        ),
    ],
)
def test_a_missing_extra_is_said_in_one_line(
    missing: str, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    """What is not installed is told with what to install, and no traceback."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environ({}),
        check=False,
        timeout=60,
    )

    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode in (1, 2)
    assert "Traceback" not in ran.stderr
    assert f"pip install 'maitred[{extra}]'" in last


def test_version_and_help_exit_well(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version; --help tells the exit statuses."""
    for arguments, expected in (
        (["--version"], f"maitred {metadata.version('maitred')}"),
        (["--help"], "exit status:"),
        (["serve", "--help"], "exit status:"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\u202ec\nd", r"a\x1b[2Jb\u202ec\x0ad"),
        ("pay\u200bpal", r"pay\u200bpal"),
        ("hi\U000e0041\U000e0042", r"hi\U000e0041\U000e0042"),
        ("a\ufe01b\U000e0100", r"a\ufe01b\U000e0100"),
        ("\u3164\u2800\ue000", r"\u3164\u2800\ue000"),
        ("crème brûlée, 寿司, مرحبا, 🍕", "crème brûlée, 寿司, مرحبا, 🍕"),
    ],
)
def test_a_text_cannot_steer_the_terminal_nor_hide(text: str, shown: str) -> None:
    """What is unseen or steers is shown as its code; what people write stays."""
    assert safe(text) == shown
    assert safe(shown) == shown


def test_commands_print_in_one_way() -> None:
    """Only `show` prints: the version, a new token and the table are made of nothing foreign."""
    own = {"words.py": 1, "parser.py": 1, "token.py": 1, "remote.py": 1}
    found = {
        path.name: count
        for path in Path(cli.__file__).parent.glob("*.py")
        if (count := len(re.findall(r"\bprint\(", path.read_text("utf-8"))))
    }

    assert found == own


SECRET = "whsec_c2VjcmV0LXNlY3JldA"  # noqa: S105  a made up one


@pytest.mark.parametrize(
    "arguments",
    [
        [SECRET],
        ["serve", SECRET],
        ["serve", f"-{SECRET}"],
        ["serve", f"--{SECRET}"],
        ["serve", f"--stripe-api-key{SECRET}"],
        ["serve", f"--reflection={SECRET}"],
        ["serve", "--stripe-api-key", SECRET, "--payments", "stripe"],
        ["serve", "--stripe-webhook-secrets", SECRET, "--payments", "stripe"],
        ["serve", "--payments", SECRET],
        ["token", "bob", "--role", SECRET],
        ["token", "bob", "--role", "agent", SECRET],
        ["sessions", "--limit", SECRET],
        ["serve", "--data", f"postgresql://u:{SECRET}@[bad"],
        ["serve", "--data", f"mysql://u:{SECRET}@h/d"],
        ["check", f"mysql://u:{SECRET}@h/d"],
        ["copy", f"mysql://u:{SECRET}@h/d", "memory://"],
    ],
)
def test_no_mistake_repeats_a_secret(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """An argument that landed in the wrong place is told without what it holds."""
    monkeypatch.chdir(tmp_path)

    status = main(arguments)

    output = capsys.readouterr()
    assert status in (1, 2)
    assert SECRET not in output.out + output.err
    assert SECRET.removeprefix("whsec_") not in output.out + output.err


def test_data_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Files that the server makes can be read by nobody else."""
    with serving(tmp_path) as server:
        grpc_call(server, "SessionService/CreateSession", session_id="s1")
        names = ("m.db", "m.db-wal", "m.db.lock", "m.sock", "simulated-payments.sqlite")
        modes = {name: (tmp_path / name).stat().st_mode & 0o077 for name in names}

    assert not any(modes.values()), modes


def test_six_backups_at_once_are_written_one_after_another(tmp_path: Path) -> None:
    """Each gets its turn; of two with one name the second is told that it is taken."""
    with serving(tmp_path) as server:
        grpc_call(server, "SessionService/CreateSession", session_id="table-7")
        names = ["", "", "a b.db", "straße/☕.db", "x.partial.db", "twice.db", "twice.db"]
        running = [
            subprocess.Popen(
                [*MAITRED, "backup", name, "--address", server.address],
                env=clean_environ({}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        answers = [each.communicate(timeout=60) for each in running]
        statuses = [each.returncode for each in running]

    assert sorted(statuses[:5]) == [0] * 5
    assert sorted(statuses[5:]) == [0, 4]
    assert any("ALREADY_EXISTS" in said for _, said in answers)
    made = [Path(path.strip()) for path, _ in answers if path.strip()]
    assert len(set(made)) == 6
    assert all(run("check", str(path)).returncode == 0 for path in made)
    assert sorted(each for each in (tmp_path / "backups").rglob("*") if each.is_file()) == sorted(
        made
    )


@pytest.mark.parametrize(
    "name",
    [
        "bell\x07.db",
        "\x1b[31mred.db",
        "line\nbreak.db",
        "over\u202eride.db",
        "zero\u200bwidth.db",
        "folder/",
        "..",
        "../out.db",
        "m.db-wal",
        "m.db.lock",
        "n" * 300,
        "taken.db/inside.db",
    ],
)
def test_names_that_no_backup_can_have(tmp_path: Path, name: str) -> None:
    """They are refused as the caller's mistake, in one clean line, and nothing is made."""
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "taken.db").touch()
    with serving(tmp_path) as server:
        refused = server.run("backup", name)

    assert refused.returncode == 4
    assert "INVALID_FIELD" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "\x1b" not in refused.stderr
    assert [each.name for each in (tmp_path / "backups").iterdir()] == ["taken.db"]


def test_a_killed_server_is_restored(tmp_path: Path) -> None:
    """Kill, restore in place, serve: the data of the backup, in a new history."""
    with serving(tmp_path) as server:
        grpc_call(server, "SessionService/CreateSession", session_id="before")
        assert server.run("backup", "copy.db").returncode == 0
        refused = run("restore", str(tmp_path / "backups" / "copy.db"), str(tmp_path / "m.db"))
        grpc_call(server, "SessionService/CreateSession", session_id="after")
    unfinished = tmp_path / "backups" / f".maitred-{'0' * 32}.partial"
    unfinished.touch()
    (tmp_path / "backups" / "kept.partial").touch()
    restored = run("restore", str(tmp_path / "backups" / "copy.db"), f"sqlite:{tmp_path / 'm.db'}")
    with serving(tmp_path) as server:
        listed = server.run("sessions").stdout

    assert refused.returncode == 1
    assert "already open in process" in refused.stderr
    assert (restored.returncode, "1 events restored, in place of" in restored.stdout) == (0, True)
    assert "before" in listed
    assert "after" not in listed
    assert not unfinished.exists()
    assert (tmp_path / "backups" / "kept.partial").exists()
