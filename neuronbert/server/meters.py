"""What is counted and measured, for Prometheus.

Owns: the names. Those of text-embeddings-inference begin with te_ and mean what they mean there; those that it has
nothing like begin with neuronbert_. Knows nothing of requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neuronbert.server.scheduler import Batch
    from neuronbert.server.served import Served

_DURATIONS: Final = tuple(1e-5 * 1.5**power for power in range(35))
_SIZES: Final = tuple(2.0**power for power in range(12))
_LENGTHS: Final = tuple(16.0 * 1.5**power for power in range(12))


class Meters:
    """The meters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Gauges, as a counter of this library's is called *_total, and what reads these doesn't know them as that.
        self.requests = self._gauge(
            "te_request_count", "Requests, those that are no batch and no single text (unread) too", "method"
        )
        self.successes = self._gauge("te_request_success", "Requests that were answered", "method")
        self.failures = self._gauge("te_request_failure", "Requests that were not", "err")
        self.duration = self._histogram("te_request_duration", "Seconds of a request")
        self.tokenization = self._histogram("te_request_tokenization_duration", "Seconds until it was tokenized")
        self.queueing = self._histogram("te_request_queue_duration", "Seconds that a row waited, on average")
        self.inference = self._histogram("te_request_inference_duration", "Seconds that a row ran, on average")
        self.input_length = self._histogram("te_request_input_length", "Tokens of a row", _LENGTHS)
        self.batch_size = self._histogram("te_batch_next_size", "Rows of a batch", _SIZES)
        self.batch_tokens = self._histogram("te_batch_next_tokens", "Tokens of a batch, padding included", _SIZES)
        names = ["model", "bucket"]
        self._calls = Counter("neuronbert_calls", "Calls of a program", names, registry=self.registry)
        self._rows = Counter("neuronbert_rows", "Rows that a program ran", names, registry=self.registry)
        self._tokens = Counter("neuronbert_tokens", "Tokens that a program ran", names, registry=self.registry)
        self._padding = Counter("neuronbert_padding_tokens", "Padding that it ran", names, registry=self.registry)
        self._failed = Counter("neuronbert_failed_calls", "Calls that failed", names, registry=self.registry)

    def _gauge(self, name: str, said: str, *labels: str) -> Gauge:
        return Gauge(name, said, labels, registry=self.registry)

    def _histogram(self, name: str, said: str, buckets: Sequence[float] = _DURATIONS) -> Histogram:
        return Histogram(name, said, buckets=buckets, registry=self.registry)

    def note(self, model: str, batch: Batch, *, failed: bool) -> None:
        """Count a batch that has run."""
        labels = model, batch.shape.name
        tokens = sum(len(row.item.piece) for row in batch.rows if row.item)
        self._calls.labels(*labels).inc()
        self._rows.labels(*labels).inc(len(batch.rows))
        self._tokens.labels(*labels).inc(tokens)
        self._padding.labels(*labels).inc(batch.shape.tokens - tokens)
        self._failed.labels(*labels).inc(failed)
        self.batch_size.observe(len(batch.rows))
        self.batch_tokens.observe(batch.shape.tokens)

    def watch(self, models: Sequence[Served]) -> None:
        """Show how these models are whenever the meters are read."""
        self.registry.register(_States(models))

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class _States:
    """What is read off when it is asked for, rather than counted."""

    def __init__(self, models: Sequence[Served]) -> None:
        self._models = models

    def collect(self) -> Iterator[Any]:
        yield GaugeMetricFamily(
            "te_queue_size", "Rows that wait", sum(sum(each.waiting.values()) for each in self._models)
        )
        waiting = GaugeMetricFamily("neuronbert_waiting_rows", "Rows that wait", labels=["model", "length"])
        held = GaugeMetricFamily("neuronbert_held_rows", "Rows that wait, run or are tokenized", labels=["model"])
        states = GaugeMetricFamily("neuronbert_worker_up", "Whether it takes calls", labels=["model", "worker"])
        restarts = GaugeMetricFamily("neuronbert_worker_restarts", "Times it was replaced", labels=["model", "worker"])
        for model in self._models:
            for length, rows in model.waiting.items():
                waiting.add_metric([model.name, str(length)], rows)
            held.add_metric([model.name], model.held.rows)
            for worker in model.engine.health():
                labels = [model.name, str(worker.number)]
                states.add_metric(labels, worker.state in ("idle", "busy"))
                restarts.add_metric(labels, worker.restarts)
        yield from (waiting, held, states, restarts)
