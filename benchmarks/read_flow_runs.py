"""What records cost: 200 flow runs from SQLite as records, against the bare driver by hand.

    python benchmarks/read_flow_runs.py

Both sides run the same SQL on their own connection to one file and give the same records. "By
hand" is what one writes without this library: fetchall(), and a conversion of each column with
the fastest functions there are. Rounds are interleaved; the ratio is of the medians.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import orjson

from prefect_db import connect, flow_runs, flows, states
from prefect_db.flow_runs import FlowRun
from prefect_db.states import StateType
from prefect_db.values import read_uuid

ROUNDS, RUNS = 200, 200
EPOCH = datetime(1970, 1, 1)
TYPES = {kind.value: kind for kind in StateType}

at = datetime.fromisoformat
loads = orjson.loads


def by_hand(connection: sqlite3.Connection, sql: str) -> list[FlowRun]:
    return [
        FlowRun(
            read_uuid(r[0]),
            at(r[1] + "+00:00"),
            at(r[2] + "+00:00"),
            r[3],
            None if r[4] is None else TYPES[r[4]],
            r[5],
            None if r[6] is None else at(r[6] + "+00:00"),
            None if r[7] is None else read_uuid(r[7]),
            r[8],
            None if r[9] is None else at(r[9] + "+00:00"),
            None if r[10] is None else at(r[10] + "+00:00"),
            None if r[11] is None else at(r[11] + "+00:00"),
            None if r[12] is None else at(r[12] + "+00:00"),
            at(r[13]) - EPOCH,
            read_uuid(r[14]),
            r[15],
            None if r[16] is None else read_uuid(r[16]),
            r[17],
            loads(r[18]),
            loads(r[19]),
            loads(r[20]),
            loads(r[21]),
            None if r[22] is None else loads(r[22]),
            r[23],
            bool(r[24]),
            None if r[25] is None else read_uuid(r[25]),
            None if r[26] is None else read_uuid(r[26]),
            r[27],
            None if r[28] is None else read_uuid(r[28]),
            r[29],
            None if r[30] is None else loads(r[30]),
            None if r[31] is None else loads(r[31]),
        )
        for r in connection.execute(sql, (RUNS,)).fetchall()
    ]


def main() -> None:
    sql = f"SELECT {FlowRun.columns} FROM flow_run ORDER BY id DESC LIMIT ?"
    with tempfile.TemporaryDirectory() as folder, connect(f"sqlite:///{folder}/bench.db") as db:
        flow = flows.create(db, "etl")
        with db.transaction() as txn:
            for number in range(1000):
                run = flow_runs.create(
                    txn, flow.id, state=states.pending(), parameters={"n": number}, tags=["prod"]
                )
                flow_runs.set_state(txn, run.id, states.running())
        bare = sqlite3.connect(f"{folder}/bench.db")
        contestants: dict[str, Callable[[], list[FlowRun]]] = {
            "by hand": lambda: by_hand(bare, sql),
            "rows(into=FlowRun)": lambda: db.rows(sql, (RUNS,), FlowRun),
            "flow_runs.find": lambda: flow_runs.find(db, limit=RUNS),
        }
        results = [read() for read in contestants.values()]
        assert all(result == results[0] for result in results), "contestants disagree"
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(ROUNDS):
            for name, read in contestants.items():
                started = time.perf_counter()
                read()
                times[name].append(time.perf_counter() - started)
        bare.close()
    base = statistics.median(times["by hand"])
    print(f"SQLite {sqlite3.sqlite_version}, {RUNS} flow runs, {ROUNDS} interleaved rounds")
    for name, samples in times.items():
        low, median, high = statistics.quantiles(samples, n=4)
        ms = timedelta(seconds=median) / timedelta(milliseconds=1)
        print(
            f"{name:20} {ms:6.2f} ms  x{median / base:.2f}"
            f"  (quartiles x{low / base:.2f} to x{high / base:.2f})"
        )


if __name__ == "__main__":
    main()
