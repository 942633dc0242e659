"""What Prometheus is told: requests, batches, waiting pictures, and which model answers."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from isdh.serve.current import Serving

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16)


class Meters:
    """The service's numbers. Labels have few values, whatever is asked.

    Args:
        waiting: tells how many pictures are in work or wait.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered.", "route", "status")
        self._seconds = Histogram(
            "isdh_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "isdh_batch_pictures",
            "Pictures encoded at once.",
            buckets=SIZES,
            registry=self.registry,
        )
        self._refused = self._counter("overloaded", "Requests sent away, the service being full.")
        self._swaps = self._counter("swaps", "Times that another model or collection was taken.")
        self._pictures = self._gauge("pictures", "Pictures of the collection.", "alias")
        self._model = self._gauge("model", "1 for what answers.", "alias", "name", "version")
        gauge = self._gauge("waiting_pictures", "Pictures in work or waiting.")
        gauge.set_function(waiting)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"isdh_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"isdh_{name}", text, labels, registry=self.registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def encoded(self, pictures: int) -> None:
        """Count a batch."""
        self._batch.observe(pictures)

    def sent_away(self) -> None:
        """Count a request that found the service full."""
        self._refused.inc()

    def swapped(self, serving: Serving) -> None:
        """Tell of what answers from now on."""
        self._swaps.inc()
        self.tell(serving)

    def tell(self, serving: Serving) -> None:
        """Tell of what answers."""
        self._model.clear()
        self._pictures.clear()
        for alias, pair in serving.pairs.items():
            self._model.labels(alias, pair.version.model, pair.version.number).set(1)
            self._pictures.labels(alias).set(len(pair.collection.images))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
