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
        "TCP address to listen on, HOST:PORT; port 0 picks a free port; empty: none",
        everyday=True,
    )
    unix_socket: str = setting("", "network", "path of a UNIX socket to listen on; empty: none")
    grace_s: float = setting(
        10.0, "network", "time for running calls to finish during shutdown, in seconds", least=0
    )
    keepalive_time_s: float = setting(
        30.0, "network", "ping an idle connection after this many seconds", least=1
    )
    keepalive_timeout_s: float = setting(
        10.0,
        "network",
        "close a connection if a ping is unanswered for so long, in seconds",
        least=1,
    )
    min_ping_interval_s: float = setting(
        10.0, "network", "minimum interval between pings from a client, in seconds", least=0
    )
    max_receive_bytes: int = setting(
        4 * 1024 * 1024, "network", "maximum request size, in bytes", least=1024
    )
    max_send_bytes: int = setting(
        64 * 1024 * 1024, "network", "maximum response size, in bytes", least=1024
    )
    max_metadata_bytes: int = setting(
        16 * 1024, "network", "maximum metadata size of a call, in bytes", least=1024
    )
    max_connections: int = setting(
        0,
        "network",
        "maximum open connections; 0: what the limit on open files allows, at most 10000",
        least=0,
    )
    max_connection_streams: int = setting(
        2048, "network", "maximum calls and watches open on one connection", least=1
    )
    handshake_timeout_s: float = setting(
        5.0, "network", "time for a new connection to complete its handshake, in seconds", least=0.1
    )
    connection_idle_s: float = setting(
        600.0, "network", "close a connection without calls after this many seconds", least=1
    )
    body_timeout_s: float = setting(
        10.0,
        "network",
        "time for a request body to arrive after its headers, in seconds",
        least=0.1,
    )
    caller_calls_per_s: float = setting(
        5000.0,
        "network",
        "calls per second of one caller, bursts of twice that; 0: no limit",
        least=0,
    )
    caller_streams: int = setting(
        20_000, "network", "maximum open watches of one caller; 0: no limit", least=0
    )
    max_pending_calls: int = setting(
        16_384, "network", "maximum calls waiting to be handled; more are refused", least=1
    )
    unary_timeout_s: float = setting(
        60.0, "network", "timeout of unary calls without deadline, in seconds; 0: no limit", least=0
    )
    reflection: bool = setting(True, "network", "serve gRPC reflection, for tools such as grpcurl")

    tokens: str = setting(
        "",
        "security",
        "file of bearer tokens, written by maitred token; empty: local callers only",
        everyday=True,
    )
    tls_cert: str = setting(
        "", "security", "PEM file of the server's certificate chain", everyday=True
    )
    tls_key: str = setting("", "security", "PEM file of the server's private key", everyday=True)
    tls_client_ca: str = setting(
        "", "security", "PEM file of the CA that must have issued clients' certificates"
    )
    allow_plaintext: bool = setting(
        False, "security", "allow tokens to be sent unencrypted over the network"
    )

    data: str = setting(
        "sqlite:maitred.db",
        "store",
        "where to store data: sqlite:PATH, a path, postgresql://…, redis://…, or memory://",
        everyday=True,
        secret=True,  # a URL may carry a password
    )
    backup_dir: str = setting(
        "backups",
        "store",
        "directory for backups made by the Backup rpc; created when needed",
        everyday=True,
    )
    store_max_bytes: int = setting(
        0, "store", "maximum database size, in bytes; 0: no limit", least=0
    )
    store_queue: int = setting(
        10_000, "store", "maximum commits waiting for the disk; more are refused", least=1
    )
    max_batch_wait_s: float = setting(
        0.001, "store", "maximum time a commit waits for others to join it, in seconds", least=0
    )
    accept_data_loss: bool = setting(
        False, "store", "accept a Redis whose settings may lose acknowledged writes"
    )
    cache_sessions: int = setting(10_000, "store", "sessions and menus kept in memory", least=1)
    cache_bytes: int = setting(
        256 * 1024 * 1024, "store", "approximate memory for this cache, in bytes", least=1024 * 1024
    )

    default_menu_id: str = setting(
        "default", "sessions", "menu of sessions that do not name one", everyday=True
    )
    opening_balance_minor: int = setting(
        100_000,
        "sessions",
        "opening balance, in minor units of the currency",
        least=0,
        everyday=True,
    )
    currency: str = setting(
        "USD", "sessions", "currency of sessions that do not name one, ISO 4217", everyday=True
    )
    idle_seconds: int = setting(
        3600,
        "sessions",
        "seconds without a write after which a session expires",
        least=1,
        everyday=True,
    )
    retention_seconds: int = setting(
        30 * 24 * 3600,
        "sessions",
        "seconds after which an ended session is erased; 0: never",
        least=0,
        everyday=True,
    )
    clock_hold_seconds: int = setting(
        300,
        "sessions",
        "seconds that a jump of the system clock must last before it is followed",
        least=0,
    )
    erasure_hold_seconds: int = setting(
        3600,
        "sessions",
        "seconds that a jump of the system clock must last before it causes erasure",
        least=0,
    )
    inbound_seconds: int = setting(
        30 * 24 * 3600,
        "sessions",
        "seconds for which a redelivered chat message is recognized",
        least=60,
    )
    require_request_id: bool = setting(
        False,
        "sessions",
        "refuse mutations without a request_id, because their retries would act again",
    )
    max_opening_balances: tuple[str, ...] = setting(
        ("1000000",),
        "sessions",
        "maximum opening balance set by AGENT, in minor units; per currency:"
        " 1000000,IDR:5000000000",
    )
    max_idle_seconds: int = setting(
        30 * 24 * 3600, "sessions", "maximum idle_seconds set by AGENT", least=1
    )
    max_resets: int = setting(
        5, "sessions", "maximum resets of a session by AGENT in one visit", least=0
    )
    max_sessions_per_hour: int = setting(
        10_000,
        "sessions",
        "maximum sessions per hour and AGENT on this server; 0: no limit",
        least=0,
    )
    max_tab_lines: int = setting(
        2000, "sessions", "maximum lines AGENT may add to a tab before it is paid", least=1
    )
    max_order_lines: int = setting(1000, "sessions", "maximum lines in an order", least=1)
    lock_timeout_s: float = setting(
        10.0, "sessions", "maximum time a command waits for its session, in seconds", least=0.001
    )
    heartbeat_s: float = setting(
        15.0, "sessions", "interval between heartbeats of an idle watch, in seconds", least=0.01
    )

    payments: str = setting(
        "simulated", "payments", "payment provider", choices=("simulated", "stripe"), everyday=True
    )
    tip_percentages: tuple[int, ...] = setting(
        (10, 15, 20),
        "payments",
        "tip percentages that SetTip accepts, comma-separated",
        everyday=True,
    )
    max_tip_percentage: int = setting(
        100, "payments", "maximum fixed tip set by AGENT, in percent of the tab", least=0
    )
    payment_expiry_seconds: int = setting(
        1800, "payments", "seconds after which a payment link expires", least=60
    )
    payment_rate_per_s: float = setting(
        20.0, "payments", "maximum requests per second to each provider endpoint", least=0.1
    )
    payment_create_timeout_s: float = setting(
        15.0, "payments", "timeout for creating a link, retries included, in seconds", least=0.1
    )
    payment_create_delays_s: tuple[float, ...] = setting(
        (1.0, 2.0, 4.0), "payments", "delays before each retry of creating a link, in seconds"
    )
    payment_poll_interval_s: float = setting(
        2.0, "payments", "interval between polls during CheckPayment, in seconds", least=0.05
    )
    payment_poll_timeout_s: float = setting(
        5.0, "payments", "timeout of one request about a payment, in seconds", least=0.05
    )
    payment_check_wait_s: float = setting(
        30.0, "payments", "maximum time CheckPayment waits, in seconds", least=0
    )
    payment_check_polls: int = setting(
        15, "payments", "maximum requests to the provider per CheckPayment", least=1
    )
    payment_probe_ttl_s: float = setting(
        30.0, "payments", "how long the result of a health check is reused, in seconds", least=0
    )
    payment_probe_timeout_s: float = setting(
        5.0, "payments", "timeout of a provider health check, in seconds", least=0.05
    )
    stripe_api_key: str = setting(
        "", "payments", "Stripe API key, preferably restricted (rk_...)", secret=True, everyday=True
    )
    stripe_webhook_secrets: tuple[str, ...] = setting(
        (),
        "payments",
        "webhook signing secrets (whsec_...); two during rotation: A,B",
        secret=True,
        everyday=True,
    )
    stripe_success_url: str = setting(
        "",
        "payments",
        "page shown to guests after they pay, such as a link to the chat",
        everyday=True,
    )
    stripe_cancel_url: str = setting("", "payments", "page shown to guests who cancel; empty: none")
    stripe_api_base: str = setting(
        "", "payments", "base URL of a fake Stripe, for tests; empty: Stripe"
    )
    webhook_listen: str = setting(
        "",
        "payments",
        "HTTP address for webhooks, HOST:PORT; empty: settle by polling only",
        everyday=True,
    )
    webhook_max_bytes: int = setting(
        262_144, "payments", "maximum webhook body size, in bytes", least=1024
    )
    webhook_tolerance_s: int = setting(
        300, "payments", "maximum age of a webhook signature, in seconds", least=1
    )
    allow_simulated_fallback: bool = setting(
        False, "payments", "simulate new payments while Stripe is unreachable; development only"
    )
    simulated_dir: str = setting(
        "", "payments", "directory of the simulated provider's records; empty: next to the data"
    )
    simulated_outcome: str = setting(
        "manual",
        "payments",
        "what simulated guests do automatically",
        choices=("manual", "pay", "decline"),
        everyday=True,
    )
    simulated_delay_s: float = setting(
        0.0, "payments", "delay before simulated guests act, in seconds", least=0
    )

    log_format: str = setting("console", "telemetry", "log format", choices=("console", "json"))
    log_level: str = setting(
        "info",
        "telemetry",
        "minimum log level",
        choices=("debug", "info", "warning", "error"),
        everyday=True,
    )
    metrics_listen: str = setting(
        "",
        "telemetry",
        "HTTP address for Prometheus metrics, HOST:PORT; empty: none",
        everyday=True,
    )

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        for spec in specs_of(Settings):
            check(spec, getattr(self, spec.name))
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError("tls_cert and tls_key must be given together")
        if self.tls_client_ca and not self.tls_cert:
            raise SettingsError("tls_client_ca requires tls_cert and tls_key")
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
    # With currencies but no plain number, agents may give nothing in other currencies.
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
        raise SettingsError("payments stripe requires stripe_api_key")
    if not key.startswith(LIVE_KEYS + TEST_KEYS):
        raise SettingsError("stripe_api_key is not a secret or restricted key (sk_... or rk_...)")
    if not settings.stripe_success_url.startswith(("https://", "http://")):
        raise SettingsError(
            "payments stripe requires stripe_success_url, the page shown after payment"
        )
    if live and (settings.allow_simulated_fallback or settings.stripe_api_base):
        raise SettingsError(
            "allow_simulated_fallback and stripe_api_base are for tests, not with a live key"
        )
    if bool(settings.webhook_listen) != bool(settings.stripe_webhook_secrets):
        raise SettingsError("webhook_listen and stripe_webhook_secrets must be given together")
