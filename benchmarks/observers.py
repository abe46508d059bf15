"""What observers cost: `flows.get` on SQLite without one, and with each.

    python benchmarks/observers.py

Rounds are interleaved; microseconds of a call's median, and the ratio to no observer.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from prefect_db import Backend, connect, flows
from prefect_db.observe import Counter, Observer, log_slow, opentelemetry

ROUNDS, CALLS = 200, 100


def main() -> None:
    metering = MeterProvider([InMemoryMetricReader()])
    observers: dict[str, Observer | tuple[Observer, ...]] = {
        "none": (),
        "Observer()": Observer(),
        "Counter()": Counter(),
        "log_slow(1)": log_slow(1),
        "opentelemetry()": opentelemetry(TracerProvider(), metering),
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = f"sqlite:///{folder}/bench.db"
        opened = {
            name: stack.enter_context(connect(url, observer=observer))
            for name, observer in observers.items()
        }
        flow = flows.create(opened["none"], "etl")
        times: dict[str, list[float]] = {name: [] for name in opened}
        for _ in range(ROUNDS):
            for name, db in opened.items():
                times[name].append(measure(db, flow))
    base = statistics.median(times["none"])
    for name, each in times.items():
        median = statistics.median(each)
        print(f"{name:16} {median:7.1f} us   {median / base:.2f}")


def measure(db: Backend, flow: flows.Flow) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        flows.get(db, flow.id)
    return (time.perf_counter() - began) / CALLS * 1e6


if __name__ == "__main__":
    main()
