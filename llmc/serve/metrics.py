"""Counters of the server, in Prometheus's format."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from llmc.serve.batch import EngineBatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """The counters of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # creation times
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "llmc_http_requests",
            "Requests answered, by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "llmc_http_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "llmc_first_token_seconds",
            "From a request for completions to its first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self._prompts = Counter("llmc_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached = Counter(
            "llmc_prompt_tokens_cached",
            "Tokens of prompts that were in the prefix cache.",
            registry=registry,
        )
        self._written = Counter("llmc_completion_tokens", "Tokens written.", registry=registry)
        ProcessCollector(registry=registry)

    def watch(self, batch: EngineBatch) -> None:
        """Add gauges for the engine."""
        ready = batch.generator.ready
        waiting = "Completions in the queue."
        for name, text, value in (
            ("engine_up", "1 while the engine runs.", lambda: batch.failure is None),
            ("engine_restarts", "How often it was started again.", lambda: batch.restarts),
            ("engine_slots", "Completions written at a time.", lambda: ready.slots),
            ("engine_memory_bytes", "Memory of the engine.", lambda: ready.memory_bytes),
            ("completions_running", "Completions being written.", lambda: batch.running),
            ("completions_waiting", waiting, lambda: batch.open - batch.running),
            ("completions_capacity", "Completions that may be open.", lambda: batch.capacity),
        ):
            Gauge(f"llmc_{name}", text, registry=self.registry).set_function(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is one of the server's routes, never a client's text."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def began(self, seconds: float) -> None:
        """Count a request's first token."""
        self._first.observe(seconds)

    def completed(self, prompt_tokens: int, cached: int, written: int) -> None:
        """Count the tokens of a request that has ended; ``cached`` are those of the prompt."""
        self._prompts.inc(prompt_tokens)
        self._cached.inc(cached)
        self._written.inc(written)

    def text(self) -> bytes:
        """Return all counters in Prometheus's text format."""
        return generate_latest(self.registry)
