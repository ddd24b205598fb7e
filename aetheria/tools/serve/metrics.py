"""What `/metrics` says, in the format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = tuple(2**power for power in range(11))


class Metrics:
    """Counts requests, rows, joined calls and reloads; each server has its own."""

    def __init__(self, active: Callable[[], float]):
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "aetheria_requests", "Answered requests", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "aetheria_request_seconds",
            "Seconds from a request's header to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Counter("aetheria_rows", "Predicted rows", ["model"], registry=registry)
        self._joined = Histogram(
            "aetheria_joined_calls",
            "Calls in one computation",
            ["model"],
            buckets=_ROWS,
            registry=registry,
        )
        self._batch = Histogram(
            "aetheria_computed_rows",
            "Rows in one computation",
            ["model"],
            buckets=_ROWS,
            registry=registry,
        )
        self._reloads = Counter(
            "aetheria_reloads", "Attempts to load", ["model", "result"], registry=registry
        )
        self._step = Gauge(
            "aetheria_model_step", "Step of the served snapshot", ["model"], registry=registry
        )
        gauge = Gauge("aetheria_active_requests", "Requests under way", registry=registry)
        gauge.set_function(active)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def computed(self, model: str) -> Callable[[int, int], None]:
        """What counts the calls and rows of each computation of a model."""
        joined, batch = self._joined.labels(model), self._batch.labels(model)
        rows = self._rows.labels(model)

        def count(num_calls: int, num_rows: int) -> None:
            joined.observe(num_calls)
            batch.observe(num_rows)
            rows.inc(num_rows)

        return count

    def loaded(self, model: str, result: str, step: int | None = None) -> None:
        """Counts an attempt to load a model: `ok`, `unchanged` or `failed`."""
        self._reloads.labels(model, result).inc()
        if step is not None:
            self._step.labels(model).set(step)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
