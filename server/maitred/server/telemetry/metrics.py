"""Metrics as plain numbers, given to Prometheus when it asks.

Changing one is an addition on an attribute, so that the hot path can afford it. They are changed on
the event loop's thread only; another thread that reads them sees a recent value.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

LATENCY_BUCKETS_S: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)

SIZE_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)
    kind: Final = "counter"

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        """Count."""
        self.value += by


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)
    kind: Final = "gauge"

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, by: float = 1) -> None:
        """Go up."""
        self.value += by

    def dec(self, by: float = 1) -> None:
        """Go down."""
        self.value -= by

    def set(self, value: float) -> None:
        """Go there."""
        self.value = value


class Histogram:
    """How often a value fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")
    kind: Final = "histogram"

    def __init__(self, bounds: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Record one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metric(Protocol):
    """What all three have in common."""

    @property
    def kind(self) -> str:
        """The Prometheus type."""


M = TypeVar("M", Counter, Gauge, Histogram)


class Family(Generic[M]):
    """Metrics of one name that differ by labels. Children are made once and kept by the caller."""

    def __init__(
        self, name: str, help: str, labels: tuple[str, ...], make: Callable[[], M]
    ) -> None:
        self.name = name
        self.help = help
        self.label_names = labels
        self._make: Callable[[], M] = make
        self._children: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str) -> M:
        """Return the child with these label values."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._make()
        return child

    def children(self) -> Iterator[tuple[tuple[str, ...], M]]:
        """Iterate over what there is."""
        yield from list(self._children.items())


_FAMILIES: Final[list[Family[Any]]] = []


def _family(name: str, help: str, labels: tuple[str, ...], make: Callable[[], M]) -> Family[M]:
    made = Family(name, help, labels, make)
    _FAMILIES.append(made)
    return made


def _single(name: str, help: str, make: Callable[[], M]) -> M:
    return _family(name, help, (), make).labels()


CALLS: Final = _family("maitred_calls", "Finished calls.", ("method", "status"), Counter)
CALL_SECONDS: Final = _family(
    "maitred_call_seconds", "Duration of calls that are no streams.", ("method",), Histogram
)
CALLS_REFUSED: Final = _family(
    "maitred_calls_refused", "Calls refused before their body was read.", ("why",), Counter
)
TOKENS_READABLE: Final = _single(
    "maitred_tokens_readable", "Whether callers are let in: 0 while the tokens are lost.", Gauge
)
STREAMS_OPEN: Final = _family("maitred_streams_open", "Streams open now.", ("method",), Gauge)
STREAM_MESSAGES: Final = _family(
    "maitred_stream_messages", "Messages sent on streams.", ("method",), Counter
)

WEBHOOKS: Final = _family(
    "maitred_webhooks", "Webhook requests by what came of them.", ("receipt",), Counter
)
WEBHOOK_SECONDS: Final = _single(
    "maitred_webhook_seconds", "Time from the head of a webhook request to its answer.", Histogram
)
HTTP_REFUSALS: Final = _family(
    "maitred_http_refusals", "Connections and requests that no app got to see.", ("why",), Counter
)

# Read from the engine when Prometheus asks, see `Exposition`.
WATCHERS: Final = _single("maitred_watchers", "Watches open now.", Gauge)
LOCKS: Final = _single("maitred_locks", "Aggregates that are locked now.", Gauge)
LOCK_WAITS: Final = _single("maitred_lock_waits", "Commands that waited for a lock.", Counter)
LOCK_TIMEOUTS: Final = _single("maitred_lock_timeouts", "Commands that waited in vain.", Counter)
CACHE_SIZE: Final = _single("maitred_cache_size", "Aggregates whose state is in memory.", Gauge)
COMMITS_IN_FLIGHT: Final = _single(
    "maitred_commits_in_flight", "Commits that are queued or being made durable.", Gauge
)
NOTICES_UNMATCHED: Final = _single(
    "maitred_notices_unmatched", "Notices of payments that are not in the books.", Counter
)
ORPHAN_PAYMENTS: Final = _single(
    "maitred_orphan_payments", "Money received for payments that are not in the books.", Counter
)
ROWS_SKIPPED: Final = _family(
    "maitred_rows_skipped",
    "Rows that background work passed over because of an error, by the work.",
    ("work",),
    Counter,
)
PROVIDER_FAULTS: Final = _single(
    "maitred_provider_faults", "Calls in which a provider's own code broke down.", Counter
)
EVENTS_PUBLISHED: Final = _single("maitred_events_published", "Events made durable.", Counter)

STORE_BATCH_COMMITS: Final = _single(
    "maitred_store_batch_commits", "Commits in one batch.", lambda: Histogram(SIZE_BUCKETS)
)
STORE_BATCH_SECONDS: Final = _single(
    "maitred_store_batch_seconds", "Duration of batches until they are durable.", Histogram
)


class Exposition:
    """What a Prometheus registry collects: a snapshot of every family."""

    def __init__(
        self, sample: Callable[[], None] | None = None, families: Iterable[Family[Any]] = _FAMILIES
    ) -> None:
        self._sample = sample
        self._families = families

    def collect(self) -> Iterator[Any]:
        """Yield families in Prometheus' own types, after gauges that are only read were set."""
        if self._sample is not None:
            self._sample()
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        made = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        for family in self._families:
            children = list(family.children())
            if not children:
                continue
            out: Any = made[children[0][1].kind](
                family.name, family.help, labels=family.label_names
            )
            for labels, child in children:
                if isinstance(child, Histogram):
                    out.add_metric(labels, buckets=_cumulative(child), sum_value=child.total)
                else:
                    out.add_metric(labels, child.value)
            yield out


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    buckets, seen = [], 0
    names = [*map(repr, histogram.bounds), "+Inf"]
    for name, count in zip(names, list(histogram.counts), strict=True):
        seen += count
        buckets.append((name, float(seen)))
    return buckets
