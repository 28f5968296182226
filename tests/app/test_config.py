"""Settings: where they come from, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from maitred.server.app.server import open_store
from maitred.server.cli.parser import build
from maitred.server.config import (
    CLIENT_VARIABLES,
    Settings,
    SettingsError,
    Spec,
    settings_from,
    specs,
)


def test_defaults_are_valid() -> None:
    """Without flags, variables and a file the defaults hold."""
    assert settings_from() == Settings()


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    """A flag goes before a variable, a variable before the file, the file before the default."""
    file = tmp_path / "maitred.toml"
    file.write_text('idle_seconds = 1\ngrace_s = 2\ncurrency = "EUR"\n')
    environ = {"MAITRED_CONFIG": str(file), "MAITRED_IDLE_SECONDS": "3", "MAITRED_GRACE_S": "4"}

    found = settings_from(["--idle-seconds", "5"], environ)

    assert (found.idle_seconds, found.grace_s, found.currency) == (5, 4.0, "EUR")
    assert found.heartbeat_s == Settings().heartbeat_s


def test_unknown_flag_names_the_nearest() -> None:
    """An unknown flag is an error of one line with the nearest known name."""
    with pytest.raises(SettingsError, match=r"^unknown flag --lisen; did you mean --listen\?$"):
        settings_from(["--lisen", "x"])


def test_abbreviated_flag_is_unknown() -> None:
    """A prefix of a flag is not that flag."""
    with pytest.raises(SettingsError, match="unknown flag --idle"):
        settings_from(["--idle=5"])


def test_unknown_variable_names_the_nearest() -> None:
    """An unknown variable with the prefix is an error with the nearest known name."""
    with pytest.raises(SettingsError, match=r"^unknown variable MAITRED_DATTA.*MAITRED_DATA\?$"):
        settings_from([], {"MAITRED_DATTA": "x"})


def test_unknown_key_names_the_nearest_and_the_file(tmp_path: Path) -> None:
    """An unknown key of the file is an error with the nearest known name."""
    file = tmp_path / "m.toml"
    file.write_text("lock_timeout = 3\n")

    with pytest.raises(SettingsError, match=r"unknown key lock_timeout in .*did you mean lock_tim"):
        settings_from(["--config", str(file)])


def test_variables_of_the_client_are_left_alone() -> None:
    """What clients read from the environment is no setting of the server, nor an error."""
    assert (
        settings_from([], dict.fromkeys(CLIENT_VARIABLES - {"MAITRED_CONFIG"}, "x")) == Settings()
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["--idle-seconds", "soon"],
        ["--idle-seconds", "0"],
        ["--idle-seconds", "1.5"],
        ["--grace-s", "nan"],
        ["--tip-percentages", "10,a"],
        ["--log-format", "xml"],
        ["--tls-cert", "x"],
        ["--tls-client-ca", "x"],
        ["--listen", ""],
        ["--config", "/nonexistent/file"],
        ["stray"],
    ],
)
def test_what_cannot_be_is_refused_in_one_line(argv: list[str]) -> None:
    """A value that cannot be is an error of one line."""
    with pytest.raises(SettingsError) as caught:
        settings_from(argv)

    assert "\n" not in str(caught.value)


def test_a_file_keeps_its_types(tmp_path: Path) -> None:
    """A number written as text in the file is an error, not a guess."""
    file = tmp_path / "m.toml"
    file.write_text('idle_seconds = "60"\n')

    with pytest.raises(SettingsError, match="wrong type"):
        settings_from(["--config", str(file)])


def test_every_kind_of_value_is_read_from_the_environment() -> None:
    """Text, numbers, switches and lists can all be set by a variable."""
    environ = {
        "MAITRED_CURRENCY": "EUR",
        "MAITRED_IDLE_SECONDS": "60",
        "MAITRED_GRACE_S": "0.5",
        "MAITRED_REFLECTION": "no",
        "MAITRED_TIP_PERCENTAGES": "5, 7",
    }

    found = settings_from([], environ)

    assert dataclasses.asdict(found) | {
        "currency": "EUR",
        "idle_seconds": 60,
        "grace_s": 0.5,
        "reflection": False,
        "tip_percentages": (5, 7),
    } == dataclasses.asdict(found)


def test_a_switch_can_be_turned_off_by_a_flag() -> None:
    """--no-… turns off what is on by default."""
    assert settings_from(["--no-reflection"]).reflection is False


def test_help_tells_settings_with_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    """--help prints what most servers set, --help-all every setting, with variable and default."""
    _, commands = build()
    everyday = [spec for spec in specs() if spec.everyday]

    short = " ".join(commands["serve"].format_help().split())
    with pytest.raises(SystemExit):
        commands["serve"].parse_args(["--help-all"])
    whole = " ".join(capsys.readouterr().out.split())

    assert len(everyday) <= 20
    for text, shown in ((short, everyday), (whole, list(specs()))):
        assert [spec.flag for spec in specs() if f"({spec.env}; " in text] == [
            spec.flag for spec in shown
        ]
        for spec in shown:
            assert f"({spec.env}; default: {spec.show_default()})" in text
            assert spec.help.split(";")[0] in text


@pytest.mark.parametrize("data", ["memory://", "postgresql://h/db", "redis://h"])
def test_only_a_file_is_bounded_in_size(data: str) -> None:
    """A bound that the engine cannot keep is refused before anything is opened."""
    with pytest.raises(SettingsError, match="store_max_bytes"):
        open_store(Settings(data=data, store_max_bytes=1))


SECRET = "whsec_c2VjcmV0LXNlY3JldA"  # noqa: S105  a made up one
OTHERS = [
    "5",
    "true",
    f'["{SECRET}", 5]',
    f'["{SECRET}"]',
    f'"{SECRET}"',
    f'{{a = "{SECRET}"}}',
    f'[["{SECRET}"]]',
    "1979-05-27",
    f'"{SECRET}", 5',
]


def told_of(load: Callable[[], Settings]) -> str:
    """What loading says of itself, whether it succeeds or fails."""
    try:
        return repr(load())
    except SettingsError as error:
        return str(error)


def complaint(load: Callable[[], Settings]) -> str:
    """What loading says where it fails; nothing where it succeeds."""
    try:
        load()
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", OTHERS)
@pytest.mark.parametrize("spec", list(specs()), ids=lambda each: each.name)
def test_no_error_repeats_a_value_of_the_file(spec: Spec, value: str, tmp_path: Path) -> None:
    """Whatever stands where something else belongs, the file's values are not told."""
    file = tmp_path / "m.toml"
    file.write_text(f"{spec.name} = {value}\n")

    told = told_of(lambda: settings_from(["--config", str(file)]))

    assert SECRET not in told or not spec.secret
    assert "wrong type" not in told or SECRET not in told


@pytest.mark.parametrize("spec", [each for each in specs() if each.secret], ids=lambda s: s.name)
def test_a_secret_is_nowhere_told(spec: Spec) -> None:
    """A secret from a flag or a variable stands in no error, no repr and no help."""
    assert SECRET not in told_of(lambda: settings_from([spec.flag, SECRET]))
    assert SECRET not in told_of(lambda: settings_from([], {spec.env: SECRET}))
    assert SECRET not in told_of(
        lambda: settings_from([f"{spec.flag}={SECRET}", "--grace-s", "-1"])
    )


@pytest.mark.parametrize("spec", list(specs()), ids=lambda each: each.name)
def test_no_error_repeats_what_was_given(spec: Spec) -> None:
    """A secret that landed in any other setting is not told either, by a flag or a variable."""
    for value in (SECRET, f"-{SECRET}", f"{SECRET},5", f"5,{SECRET}", f"https://{SECRET}@h/x"):
        for argv, environ in ([f"{spec.flag}={value}"], {}), ([], {spec.env: value}):
            assert SECRET not in complaint(partial(settings_from, argv, environ))


@pytest.mark.parametrize(
    "text",
    [
        *[f"{SECRET}\n", f"{SECRET} = 1\n{SECRET} = 2\n", f'a = "{SECRET}', f"a = {SECRET}\n"],
        *[f"[{SECRET}]\n[{SECRET}]\n", f"a = 1\na.{SECRET} = 1\n", f'["{SECRET}"]\n'],
    ],
)
def test_no_broken_file_is_repeated(text: str, tmp_path: Path) -> None:
    """What is no TOML is told by its place, never by what stands there."""
    file = tmp_path / "m.toml"
    file.write_text(text)

    with pytest.raises(SettingsError) as caught:
        settings_from(["--config", str(file)])

    assert SECRET not in str(caught.value)
    assert str(file) in str(caught.value)


def test_every_secret_is_marked() -> None:
    """A setting whose name or help speaks of a key, a secret or a password is one."""
    speak = re.compile(r"secret|password|api_key|token\b")
    named = {each.name for each in specs() if speak.search(each.name)}

    assert named <= {each.name for each in specs() if each.secret}
    assert {"stripe_api_key", "stripe_webhook_secrets", "data"} <= {
        each.name for each in specs() if each.secret
    }


LINKS = {
    "MAITRED_PORT": "tcp://10.0.0.1:50051",
    "MAITRED_SERVICE_HOST": "10.0.0.1",
    "MAITRED_SERVICE_PORT": "50051",
    "MAITRED_SERVICE_PORT_GRPC": "50051",
    "MAITRED_PORT_50051_TCP": "tcp://10.0.0.1:50051",
    "MAITRED_PORT_50051_TCP_PROTO": "tcp",
    "MAITRED_PORT_50051_TCP_PORT": "50051",
    "MAITRED_PORT_50051_TCP_ADDR": "10.0.0.1",
    "MAITRED_METRICS_PORT": "udp://10.0.0.1:9000",
    "MAITRED_METRICS_SERVICE_HOST": "10.0.0.1",
    "MAITRED_METRICS_PORT_9000_UDP_ADDR": "10.0.0.1",
    "MAITRED_NAME": "/bar/maitred",
    "MAITRED_ENV_PATH": "/usr/bin",
}


def test_service_links_are_no_settings() -> None:
    """What Kubernetes and Docker set for a service named maitred changes and stops nothing."""
    assert settings_from([], LINKS) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAITRED_PORT", "50051"),
        ("MAITRED_METRICS_PORT", "9000"),
        ("MAITRED_ENV_PATH", "/usr/bin"),
        ("MAITRED_NAME", "bar"),
        ("MAITRED_SERVICE", "x"),
    ],
)
def test_what_only_resembles_a_service_link_is_an_error(name: str, value: str) -> None:
    """A variable that nobody but a person can have meant is not ignored."""
    with pytest.raises(SettingsError, match=f"unknown variable {name}"):
        settings_from([], {name: value})
