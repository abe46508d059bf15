"""What observers cost: `flows.get` without one, and with each."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.harness import Line, Place, Section, interleaved
from prefect_db import connect, flows
from prefect_db.observe import Counter, Observer, log_slow, opentelemetry


def run(place: Place) -> list[Section]:
    """The section; it has no targets."""
    metering = MeterProvider([InMemoryMetricReader()])
    observers: dict[str, Observer | tuple[Observer, ...]] = {
        "none": (),
        "Observer()": Observer(),
        "Counter()": Counter(),
        "log_slow(1)": log_slow(1),
        "opentelemetry()": opentelemetry(TracerProvider(), metering),
    }
    url = place.new_url()
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(connect(url, observer=observer))
            for name, observer in observers.items()
        }
        flow_id = flows.create(opened["none"], "etl").id

        contestants = {name: partial(flows.get, db, flow_id) for name, db in opened.items()}
        for call in contestants.values():
            call()
        samples = interleaved(contestants, rounds=10 if place.quick else 100, calls=100)
    line = Line("read flow", samples)
    return [Section("observers", "What observers cost", place.backend, "us", [line])]
