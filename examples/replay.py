"""Replay a real Prefect client's recorded traffic through prefect_db, and check what is stored.

    python examples/replay.py sqlite|postgres

Each recorded request becomes the call of an entity function that a server would make of it. The
recording has no responses, so the ids that the server gave are found by looking ahead to where
the client uses them.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect_db import (
    Backend,
    blocks,
    connect,
    events,
    flow_runs,
    flows,
    logs,
    states,
    task_runs,
)
from prefect_db.filters import Among, AnyOf, Reference, State
from prefect_db.testing import postgres_server

RECORDING = Path(__file__).with_name("client-requests.jsonl.gz")

# Asked of a server, and none of a database's business.
NOT_STORED = ("/health", "/admin/", "/csrf-token", "/v2/concurrency_limits")


def load() -> list[dict[str, Any]]:
    with gzip.open(RECORDING, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def find_ids(recording: list[dict[str, Any]]) -> dict[int, UUID]:
    """By the place of each creating request: the id that the server gave to what it created."""
    ids: dict[int, UUID] = {}
    waiting: dict[str, list[int]] = {}

    def claim(kind: str, value: str | None) -> None:
        if value and waiting.get(kind) and UUID(value) not in ids.values():
            ids[waiting[kind].pop(0)] = UUID(value)

    for at, entry in enumerate(recording):
        body = entry["body"]
        if entry["kind"] == "event" or body is None:
            continue
        path = entry["path"].removeprefix("/api")
        if path.endswith("/set_state") or entry["method"] == "PATCH":
            claim("/flow_runs/", path.split("/")[2])
        elif path == "/flow_runs/filter":
            claim("/task_runs/", body["flow_runs"]["parent_task_run_id"]["any_"][0])
        elif path == "/flow_runs/":
            claim("/flows/", body["flow_id"])
        elif path == "/block_schemas/":
            claim("/block_types/", body["block_type_id"])
        elif path == "/block_documents/":
            claim("/block_schemas/", body["block_schema_id"])
            for value in body["data"].values():
                if isinstance(value, dict) and "$ref" in value:
                    waiting["/block_documents/"] = waiting["/block_documents/"][-1:]
                    claim("/block_documents/", value["$ref"]["block_document_id"])
        if entry["method"] == "POST" and entry["status"] == 201:
            waiting.setdefault(path, []).append(at)
    return ids


class Replay:
    """Sends the recording, counting the calls."""

    def __init__(self, db: Backend, recording: list[dict[str, Any]]) -> None:
        self.db = db
        self.recording = recording
        self.ids = find_ids(recording)
        self.calls: Counter[str] = Counter()
        self.problems: list[str] = []

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.problems.append(what)

    def register_secret(self) -> None:
        """What a Prefect server registers when it starts, as far as the recording uses it."""
        document = next(
            e["body"] for e in self.recording if e.get("path") == "/api/block_documents/"
        )
        blocks.create_type(
            self.db, "Secret", "secret", is_protected=True, id=UUID(document["block_type_id"])
        )
        blocks.create_schema(
            self.db,
            {
                "title": "Secret",
                "type": "object",
                "properties": {"value": {"title": "Value"}},
                "secret_fields": ["value"],
                "block_type_slug": "secret",
                "block_schema_references": {},
            },
            UUID(document["block_type_id"]),
            version="3.8.8",
            id=UUID(document["block_schema_id"]),
        )

    def run(self) -> None:
        for at, entry in enumerate(self.recording):
            if entry["kind"] == "event":
                self.event(entry["body"])
                continue
            path = entry["path"].removeprefix("/api")
            if path.startswith(NOT_STORED):
                continue
            self.calls[f"{entry['method']} {path.split('/')[1]}"] += 1
            if entry["method"] == "GET":
                self.read(path, entry["query"], entry["status"])
            else:
                self.write(path, entry["body"], self.ids.get(at))

    def event(self, frame: dict[str, Any]) -> None:
        if "event" in frame:  # the first frame is the websocket's handshake
            self.calls["events"] += 1
            with self.db.transaction() as txn:
                events.write(txn, [frame])
                task_runs.record(txn, [frame])

    def read(self, path: str, query: str, status: int) -> None:
        parts = path.strip("/").split("/")
        found: Any
        match parts:
            case ["flows", flow_id]:
                found = flows.get(self.db, UUID(flow_id))
            case ["flow_runs", run_id]:
                found = flow_runs.get(self.db, UUID(run_id))
            case ["task_runs", run_id]:
                task_runs.get(self.db, UUID(run_id))
                return  # the recorded server recorded them seconds later; here they are there
            case ["block_types", "slug", slug]:
                found = blocks.get_type_by_slug(self.db, slug)
            case ["block_types", "slug", slug, "block_documents", "name", name]:
                found = blocks.get_document_by_name(self.db, slug, name, include_secrets=True)
            case ["block_schemas", "checksum", checksum]:
                version = query.removeprefix("version=")
                found = blocks.get_schema_by_checksum(self.db, checksum, version)
                if version == "3.8.8":
                    return  # the schema of Secret is ours, and so is its checksum
            case _:
                raise ValueError(f"GET {path} is in no place of this replay")
        self.expect((found is not None) == (status == 200), f"GET {path} was answered {status}")

    def write(self, path: str, body: Any, given_id: UUID | None) -> None:
        db = self.db
        match path.strip("/").split("/"):
            case ["flows"]:
                flows.create(db, **body, id=given_id)
            case ["flow_runs"]:
                self.create_flow_run(body, given_id)
            case ["flow_runs", "filter"]:
                wanted = body["flow_runs"]["parent_task_run_id"]["any_"]
                flow_runs.find(
                    db,
                    flow_runs.FlowRunFilter(parent_task_run_id=Reference(any_=wanted)),
                    sort=flow_runs.FlowRunSort[body["sort"]],
                    limit=body["limit"],
                    offset=body["offset"],
                )
            case ["flow_runs", run_id]:
                flow_runs.update(db, UUID(run_id), **body)
            case ["flow_runs", run_id, "set_state"]:
                flow_runs.set_state(db, UUID(run_id), as_state(body["state"]))
            case ["task_runs"]:
                self.create_task_run(body, given_id)
            case ["logs"]:
                logs.write(db, body)
            case ["block_types"]:
                blocks.create_type(db, **body, id=given_id)
            case ["block_schemas"]:
                body = {**body, "block_type_id": UUID(body["block_type_id"])}
                blocks.create_schema(db, **body, id=given_id)
            case ["block_documents"]:
                keys = ("block_schema_id", "block_type_id")
                body = {**body, **{key: UUID(body[key]) for key in keys}}
                blocks.create_document(db, **body, id=given_id)
            case _:
                raise ValueError(f"{path} is in no place of this replay")

    def create_flow_run(self, body: dict[str, Any], given_id: UUID | None) -> None:
        parent = body["parent_task_run_id"]
        flow_runs.create(
            self.db,
            UUID(body["flow_id"]),
            id=given_id,
            name=body["name"],
            state=as_state(body["state"]),
            flow_version=body["flow_version"],
            parameters=body["parameters"],
            context=body["context"],
            empirical_policy=body["empirical_policy"],
            tags=body["tags"],
            parent_task_run_id=UUID(parent) if parent else None,
        )

    def create_task_run(self, body: dict[str, Any], given_id: UUID | None) -> None:
        links = {"state": as_state(body["state"]), "flow_run_id": UUID(body["flow_run_id"])}
        task_runs.create(self.db, **{**body, **links}, id=given_id)

    def check(self) -> None:
        """Compare what is stored with what was sent."""
        self.check_flow_runs()
        self.check_events()
        self.check_task_runs()
        self.check_logs()
        self.check_documents()

    def sent(self, suffix: str) -> Iterator[tuple[int, str, Any]]:
        for at, entry in enumerate(self.recording):
            if entry["kind"] == "request" and entry["body"] and entry["path"].endswith(suffix):
                yield at, entry["path"], entry["body"]

    def check_flow_runs(self) -> None:
        expected: dict[UUID, list[dict[str, Any]]] = {}
        for at, _, body in self.sent("/flow_runs/"):
            expected[self.ids[at]] = [body["state"]]
            run = flow_runs.get(self.db, self.ids[at])
            self.expect(
                run is not None
                and run.flow_id == UUID(body["flow_id"])
                and run.parameters == body["parameters"]
                and run.tags == body["tags"]
                and run.flow_version == body["flow_version"]
                and body["empirical_policy"].items() <= run.empirical_policy.items(),
                f"flow run {self.ids[at]} is not as it was sent",
            )
        for _, path, body in self.sent("/set_state"):
            expected[UUID(path.split("/")[3])].append(body["state"])
        self.expect(flow_runs.count(self.db) == len(expected), "the number of flow runs")
        for run_id, sent in expected.items():
            stored = flow_runs.history(self.db, run_id)
            self.expect(
                [(s.type, s.name, s.message, s.data) for s in stored]
                == [(s["type"], s["name"], s["message"], s["data"]) for s in sent],
                f"the states of flow run {run_id} are not as they were sent",
            )

    def check_events(self) -> None:
        frames = {e["body"]["id"]: e["body"] for e in self.recording if "id" in (e["body"] or {})}
        stored = events.query(self.db, limit=len(frames) + 1).events
        self.expect(len(stored) == len(frames), "the number of events")
        for event in stored:
            sent = events.parse(frames[str(event.id)])
            sent.received, sent.recorded = event.received, event.recorded
            self.expect(event == sent, f"event {event.id} is not as it was sent")

    def check_task_runs(self) -> None:
        accounts: dict[UUID, list[dict[str, Any]]] = {}
        for entry in self.recording:
            frame = entry["body"]
            if entry["kind"] == "event" and frame.get("event", "").startswith("prefect.task-run"):
                run_id = UUID(frame["resource"][events.RESOURCE_ID].split(".")[-1])
                accounts.setdefault(run_id, []).append(frame)
        placeholders = len(list(self.sent("/task_runs/")))
        self.expect(
            task_runs.count(self.db) == len(accounts) + placeholders, "the number of task runs"
        )
        for run_id, frames in accounts.items():
            frames.sort(key=lambda frame: str(frame["occurred"]))
            stored = task_runs.history(self.db, run_id)
            run = task_runs.get(self.db, run_id)
            last = frames[-1]["payload"]["task_run"]
            self.expect(
                [str(state.id) for state in stored] == [frame["id"] for frame in frames]
                and run is not None
                and str(run.state_id) == frames[-1]["id"]
                and (run.name, run.tags, run.run_count, run.task_inputs)
                == (last["name"], last["tags"], last["run_count"], last["task_inputs"])
                and run.total_run_time == timedelta(seconds=last["total_run_time"]),
                f"task run {run_id} is not as its events tell",
            )

    def check_logs(self) -> None:
        sent = Counter(
            (line["message"], line["level"], line["flow_run_id"], line["task_run_id"])
            for _, _, body in self.sent("/logs/")
            for line in body
        )
        stored = Counter(
            (log.message, log.level, text(log.flow_run_id), text(log.task_run_id))
            for log in logs.find(self.db, limit=None)
        )
        self.expect(sent == stored, "the logs")

    def check_documents(self) -> None:
        sent = {body["name"]: body["data"] for _, _, body in self.sent("/block_documents/")}
        nested = {
            str(self.ids[at]): body["data"]
            for at, _, body in self.sent("/block_documents/")
            if at in self.ids
        }
        stored = blocks.find_documents(self.db, include_secrets=True)
        self.expect(len(stored) == len(sent), "the number of block documents")
        for document in stored:
            whole = {
                key: nested[value["$ref"]["block_document_id"]]
                if isinstance(value, dict) and "$ref" in value
                else value
                for key, value in sent[document.name].items()
            }
            self.expect(document.data == whole, f"block document {document.name}")


def as_state(body: dict[str, Any]) -> states.State:
    return states.make(
        states.StateType(body["type"]),
        name=body["name"],
        message=body["message"],
        data=body["data"],
        details=body["state_details"],
    )


def text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def show(db: Backend) -> None:
    """What a person wants to see."""
    now = datetime.now(UTC)
    names = {flow.id: flow.name for flow in flows.find(db)}
    print("\nFlow runs")
    for run in flow_runs.find(db, sort=flow_runs.FlowRunSort.EXPECTED_START_TIME_ASC):
        history = flow_runs.history(db, run.id)
        steps = [f"{a.name} {ms(b.timestamp - a.timestamp)}" for a, b in pairwise(history)]
        path = " > ".join([*steps, history[-1].name])
        took = ms(states.estimated_run_time(run, now))
        print(f"  {names[run.flow_id]:22} {run.name:22} {path}  (ran {took})")
    print("\nTask runs")
    for kind, number in sorted(task_runs.count_by_state(db).items(), key=str):
        print(f"  {kind or 'no state':12} {number:4}")
    print("\nEvents")
    for counted in events.count_by_event(db):
        print(f"  {counted.label:36} {counted.count:4}")
    print("\nBlock documents")
    for document in blocks.find_documents(db):
        print(f"  {document.name:12} {json.dumps(document.data, ensure_ascii=False)}")
    failed = flow_runs.FlowRunFilter(state=State(type=Among(any_=[states.StateType.FAILED])))
    run = flow_runs.find(db, failed, sort=flow_runs.FlowRunSort.START_TIME_ASC, limit=1)[0]
    print(f"\nLogs of {run.name}, which failed")
    for line in logs.find(db, logs.LogFilter(flow_run_id=AnyOf(any_=[run.id]))):
        print(f"  {line.timestamp:%H:%M:%S.%f} {line.level} {line.message.splitlines()[0]}")


def ms(duration: timedelta) -> str:
    return f"{duration / timedelta(milliseconds=1):.1f} ms"


@contextmanager
def database(kind: str) -> Iterator[str]:
    """The URL of a database that is gone afterwards."""
    if kind == "postgres":
        with postgres_server() as url:
            yield url
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/demo.db"


def main(kind: str) -> int:
    recording = load()
    with database(kind) as url, connect(url) as db:
        replay = Replay(db, recording)
        replay.register_secret()
        started = time.perf_counter()
        replay.run()
        seconds = time.perf_counter() - started
        replay.check()
        show(db)
        calls = replay.calls.total()
        print(f"\n{kind}: {len(recording)} requests and events, {calls} for the database, in")
        print(f"{seconds:.2f} s: {calls / seconds:.0f} operations per second")
        for problem in replay.problems:
            print(f"DIFFERENT: {problem}", file=sys.stderr)
        if not replay.problems:
            print("what is stored is what was sent")
        return 1 if replay.problems else 0


if __name__ == "__main__":
    if sys.argv[1:] not in (["sqlite"], ["postgres"]):
        sys.exit("usage: replay.py sqlite|postgres")
    sys.exit(main(sys.argv[1]))
