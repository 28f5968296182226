"""The settings of a server, each documented where it is defined."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from maitred.server.config.spec import SettingsError, check, setting, specs_of


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server."""

    listen: str = setting(
        "127.0.0.1:50051",
        "network",
        "TCP address, HOST:PORT; port 0 takes a free one; empty: none",
        everyday=True,
    )
    unix_socket: str = setting("", "network", "path of a UNIX socket to listen on; empty: none")
    grace_s: float = setting(
        10.0, "network", "time that running calls get when the server stops, in seconds", least=0
    )
    keepalive_time_s: float = setting(
        30.0, "network", "a silent connection is pinged after so many seconds", least=1
    )
    keepalive_timeout_s: float = setting(
        10.0, "network", "a ping unanswered for so many seconds ends the connection", least=1
    )
    min_ping_interval_s: float = setting(
        10.0, "network", "clients may ping every so many seconds, not more often", least=0
    )
    max_receive_bytes: int = setting(
        4 * 1024 * 1024, "network", "largest request, in bytes", least=1024
    )
    max_send_bytes: int = setting(
        64 * 1024 * 1024, "network", "largest response, in bytes", least=1024
    )
    max_metadata_bytes: int = setting(
        16 * 1024, "network", "largest metadata of a call, in bytes", least=1024
    )
    max_connections: int = setting(
        0,
        "network",
        "connections open at once; 0: what the limit of open files leaves, at most 10000",
        least=0,
    )
    max_connection_streams: int = setting(
        2048, "network", "calls and watches open at once on one connection", least=1
    )
    handshake_timeout_s: float = setting(
        5.0, "network", "time a new connection gets to say what it is, in seconds", least=0.1
    )
    connection_idle_s: float = setting(
        600.0, "network", "a connection without a call is closed after so many seconds", least=1
    )
    body_timeout_s: float = setting(
        10.0, "network", "time a request's body gets after its head, in seconds", least=0.1
    )
    caller_calls_per_s: float = setting(
        5000.0,
        "network",
        "calls a second of one caller by name, twice that at once; 0: no bound",
        least=0,
    )
    caller_streams: int = setting(
        20_000, "network", "watches that one caller by name may have open; 0: no bound", least=0
    )
    max_pending_calls: int = setting(
        16_384, "network", "calls that may wait to be taken up before more are refused", least=1
    )
    unary_timeout_s: float = setting(
        60.0,
        "network",
        "longest a call without a deadline may take, streams excepted, in seconds; 0: no bound",
        least=0,
    )
    reflection: bool = setting(True, "network", "describe the contract to tools such as grpcurl")

    tokens: str = setting(
        "",
        "security",
        "file of bearer tokens (maitred token writes it); empty: local callers only",
        everyday=True,
    )
    tls_cert: str = setting(
        "", "security", "PEM file of the server's certificate chain", everyday=True
    )
    tls_key: str = setting("", "security", "PEM file of the server's private key", everyday=True)
    tls_client_ca: str = setting(
        "", "security", "PEM file of the authority that callers' certificates must come from"
    )
    allow_plaintext: bool = setting(
        False, "security", "let tokens travel unencrypted beyond this machine"
    )

    data: str = setting(
        "sqlite:maitred.db",
        "store",
        "where the data lives: sqlite:PATH, a path, postgresql://…, redis://…, or memory://",
        everyday=True,
        secret=True,  # a URL may carry a password
    )
    backup_dir: str = setting(
        "backups",
        "store",
        "directory that the Backup rpc writes into; made when it is needed",
        everyday=True,
    )
    store_max_bytes: int = setting(
        0, "store", "largest database, in bytes; writes beyond it are refused; 0: no bound", least=0
    )
    store_queue: int = setting(
        10_000, "store", "commits that may wait for the disk before more are refused", least=1
    )
    max_batch_wait_s: float = setting(
        0.001,
        "store",
        "longest that commits wait for others to share the disk with, in seconds",
        least=0,
    )
    accept_data_loss: bool = setting(
        False, "store", "use a Redis whose settings may lose acknowledged writes"
    )
    cache_sessions: int = setting(
        10_000, "store", "aggregates whose state is kept in memory", least=1
    )
    cache_bytes: int = setting(
        256 * 1024 * 1024, "store", "about what these states may take, in bytes", least=1024 * 1024
    )

    default_menu_id: str = setting(
        "default", "sessions", "menu of sessions that name none", everyday=True
    )
    opening_balance_minor: int = setting(
        100_000,
        "sessions",
        "opening balance, in minor units of the currency",
        least=0,
        everyday=True,
    )
    currency: str = setting(
        "USD", "sessions", "currency of sessions that name none, ISO 4217", everyday=True
    )
    idle_seconds: int = setting(
        3600,
        "sessions",
        "a session expires after so many seconds without a write",
        least=1,
        everyday=True,
    )
    retention_seconds: int = setting(
        30 * 24 * 3600,
        "sessions",
        "an ended session is erased after so many seconds; 0: never",
        least=0,
        everyday=True,
    )
    clock_hold_seconds: int = setting(
        300,
        "sessions",
        "a jump of the machine's clock is believed when it has lasted for so many seconds",
        least=0,
    )
    erasure_hold_seconds: int = setting(
        3600,
        "sessions",
        "nothing is erased by a jump of the clock that has not lasted for so many seconds",
        least=0,
    )
    inbound_seconds: int = setting(
        30 * 24 * 3600,
        "sessions",
        "a chat message that comes again is known for so many seconds",
        least=60,
    )
    require_request_id: bool = setting(
        False,
        "sessions",
        "refuse changes without a request_id, whose retries would act again",
    )
    max_opening_balances: tuple[str, ...] = setting(
        ("1000000",),
        "sessions",
        "largest opening balance that AGENT may give, in minor units; for single currencies:"
        " 1000000,IDR:5000000000",
    )
    max_idle_seconds: int = setting(
        30 * 24 * 3600, "sessions", "largest idle_seconds that AGENT may ask for", least=1
    )
    max_resets: int = setting(
        5, "sessions", "how often AGENT may reset a session in one visit", least=0
    )
    max_sessions_per_hour: int = setting(
        10_000,
        "sessions",
        "sessions that each AGENT may begin in an hour on this server; 0: no bound",
        least=0,
    )
    max_tab_lines: int = setting(
        2000, "sessions", "lines that AGENT may add to one tab before it is paid", least=1
    )
    max_order_lines: int = setting(1000, "sessions", "most lines that one order may hold", least=1)
    lock_timeout_s: float = setting(
        10.0, "sessions", "longest that a command waits for its session, in seconds", least=0.001
    )
    heartbeat_s: float = setting(
        15.0, "sessions", "a quiet watch says that it is alive every so many seconds", least=0.01
    )

    payments: str = setting(
        "simulated",
        "payments",
        "who takes the money",
        choices=("simulated", "stripe"),
        everyday=True,
    )
    tip_percentages: tuple[int, ...] = setting(
        (10, 15, 20),
        "payments",
        "tip percentages that SetTip accepts, comma-separated",
        everyday=True,
    )
    max_tip_percentage: int = setting(
        100, "payments", "largest fixed tip that AGENT may set, in percent of the tab", least=0
    )
    payment_expiry_seconds: int = setting(
        1800, "payments", "a link to pay dies after so many seconds", least=60
    )
    payment_rate_per_s: float = setting(
        20.0,
        "payments",
        "most requests a second to each endpoint of the provider; guests who wait go first",
        least=0.1,
    )
    payment_create_timeout_s: float = setting(
        15.0, "payments", "longest that making a link may take, retries included", least=0.1
    )
    payment_create_delays_s: tuple[float, ...] = setting(
        (1.0, 2.0, 4.0), "payments", "pauses before each retry of making a link, in seconds"
    )
    payment_poll_interval_s: float = setting(
        2.0, "payments", "CheckPayment asks the provider again every so many seconds", least=0.05
    )
    payment_poll_timeout_s: float = setting(
        5.0, "payments", "longest that one question about a payment may take", least=0.05
    )
    payment_check_wait_s: float = setting(
        30.0, "payments", "longest that CheckPayment waits, whatever the caller allows", least=0
    )
    payment_check_polls: int = setting(
        15, "payments", "most questions to the provider of one CheckPayment", least=1
    )
    payment_probe_ttl_s: float = setting(
        30.0, "payments", "how long it holds that the provider answers, or does not", least=0
    )
    payment_probe_timeout_s: float = setting(
        5.0, "payments", "longest that the provider may take to give a sign of life", least=0.05
    )
    stripe_api_key: str = setting(
        "", "payments", "Stripe's key, best a restricted one (rk_...)", secret=True, everyday=True
    )
    stripe_webhook_secrets: tuple[str, ...] = setting(
        (),
        "payments",
        "secrets of the webhook endpoint (whsec_...), two while they are rotated: A,B",
        secret=True,
        everyday=True,
    )
    stripe_success_url: str = setting(
        "",
        "payments",
        "page that guests come to when they have paid, such as a chat's link",
        everyday=True,
    )
    stripe_cancel_url: str = setting(
        "", "payments", "page that guests come to when they turn back; empty: none"
    )
    stripe_api_base: str = setting(
        "", "payments", "address of a stand-in for Stripe, for tests; empty: Stripe's own"
    )
    webhook_listen: str = setting(
        "",
        "payments",
        "HTTP address of the webhook listener, HOST:PORT; empty: polls alone settle",
        everyday=True,
    )
    webhook_max_bytes: int = setting(
        262_144, "payments", "largest message that the webhook listener takes, in bytes", least=1024
    )
    webhook_tolerance_s: int = setting(
        300, "payments", "a message whose signature is older, in seconds, is refused", least=1
    )
    allow_simulated_fallback: bool = setting(
        False, "payments", "simulate new payments while Stripe does not answer; development only"
    )
    simulated_dir: str = setting(
        "", "payments", "directory of the simulated provider's books; empty: beside the data"
    )
    simulated_outcome: str = setting(
        "manual",
        "payments",
        "what simulated guests do by themselves",
        choices=("manual", "pay", "decline"),
        everyday=True,
    )
    simulated_delay_s: float = setting(
        0.0, "payments", "how long simulated guests take, in seconds", least=0
    )

    log_format: str = setting(
        "console", "telemetry", "shape of the log", choices=("console", "json")
    )
    log_level: str = setting(
        "info",
        "telemetry",
        "least level that is logged",
        choices=("debug", "info", "warning", "error"),
        everyday=True,
    )
    metrics_listen: str = setting(
        "",
        "telemetry",
        "HTTP address of the Prometheus metrics, HOST:PORT; empty: none",
        everyday=True,
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        for spec in specs_of(Settings):
            check(spec, getattr(self, spec.name))
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError("tls_cert and tls_key are given together or not at all")
        if self.tls_client_ca and not self.tls_cert:
            raise SettingsError("tls_client_ca needs tls_cert and tls_key")
        if not self.listen and not self.unix_socket:
            raise SettingsError("nothing to listen on: set listen or unix_socket")
        opening_balances(self.max_opening_balances)
        check_payments(self)


def opening_balances(given: tuple[str, ...]) -> dict[str, int]:
    """Read `max_opening_balances`: by currency, and under "" for every other one.

    Raises: SettingsError.
    """
    read: dict[str, int] = {}
    for part in given:
        currency, _, number = part.rpartition(":")
        known = not currency or re.fullmatch("[A-Z]{3}", currency)
        if not known or not re.fullmatch("[0-9]{1,18}", number) or currency in read:
            raise SettingsError(
                "max_opening_balances: a part is neither a number nor CURRENCY:NUMBER, once each"
            )
        read[currency] = int(number)
    # Who names currencies and no number lets agents give none in any other.
    read.setdefault("", 0)
    return read


LIVE_KEYS: Final = ("sk_live_", "rk_live_")
TEST_KEYS: Final = ("sk_test_", "rk_test_")


def check_payments(settings: Settings) -> None:
    """Refuse settings under which real money could be missed, or simulated by mistake.

    Raises: SettingsError.
    """
    key, live = settings.stripe_api_key, settings.stripe_api_key.startswith(LIVE_KEYS)
    if settings.payments == "simulated":
        if live:
            raise SettingsError("payments are simulated but a live Stripe key is set: remove one")
        if settings.webhook_listen or settings.allow_simulated_fallback:
            raise SettingsError("webhook_listen and allow_simulated_fallback need payments stripe")
        return
    if not key:
        raise SettingsError("payments stripe needs stripe_api_key")
    if not key.startswith(LIVE_KEYS + TEST_KEYS):
        raise SettingsError("stripe_api_key is no secret or restricted key: sk_... or rk_...")
    if not settings.stripe_success_url.startswith(("https://", "http://")):
        raise SettingsError("payments stripe needs stripe_success_url, where paid guests land")
    if live and (settings.allow_simulated_fallback or settings.stripe_api_base):
        raise SettingsError(
            "allow_simulated_fallback and stripe_api_base are for tests: not with a live key"
        )
    if bool(settings.webhook_listen) != bool(settings.stripe_webhook_secrets):
        raise SettingsError(
            "webhook_listen and stripe_webhook_secrets are given together or not at all"
        )
