"""The API as such: status codes, bodies, limits, authentication, faults."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from psycopg.conninfo import conninfo_to_dict
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as open_websocket
from websockets.sync.connection import Connection
from websockets.typing import Subprotocol

from prefect_db import blocks, connect, events, task_runs
from prefect_db.testing import postgres_server
from tests.server.processes import Server, example_server

NOBODY = "00000000-0000-4000-8000-000000000000"
PREFECT = Subprotocol("prefect")


def dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def new_flow(server: Server, name: str = "etl", **given: Any) -> Any:
    return server.call("POST", "/flows/", {"name": name, **given}).json


def new_run(server: Server, **given: Any) -> Any:
    answer = server.call("POST", "/flow_runs/", {"flow_id": new_flow(server)["id"], **given})
    assert answer.status == 201
    return answer.json


def set_state(server: Server, run_id: str, type: str, **given: Any) -> Any:
    force = given.pop("force", False)
    body = {"state": {"type": type, **given}, "force": force}
    answer = server.call("POST", f"/flow_runs/{run_id}/set_state", body)
    return answer.status, answer.json


def new_event(**given: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "test.happened",
        "resource": {"prefect.resource.id": "test.thing"},
        "related": [],
        "payload": {},
        "follows": None,
        **given,
    }


def stored_events(url: str, number: int) -> list[events.Event]:
    """The events, when there are so many, or after a time that is long enough."""
    deadline = time.monotonic() + 20
    with connect(url) as db:
        while events.count(db) < number and time.monotonic() < deadline:
            time.sleep(0.05)
        return events.query(db, limit=number + 1).events


def websocket(server: Server, **given: Any) -> Connection:
    url = f"ws://127.0.0.1:{server.port}/api/events/in"
    options = {"subprotocols": [PREFECT], "compression": None, **given}
    connection: Connection = open_websocket(url, **options)
    return connection


def authenticate(connection: Connection, token: str | None = None) -> str | bytes:
    connection.send(dumps({"type": "auth", "token": token}))
    return connection.recv(10)


def stop_postgres(pid_file: Path) -> None:
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
    while pid_file.exists():
        time.sleep(0.05)


class TestServer:
    def test_lives_and_is_ready(self, server: Server) -> None:
        assert server.call("GET", "/health").json is True
        assert server.call("GET", "/ready").json == {"message": "OK"}
        assert server.call("GET", "/admin/version").json == "3.8.8"

    def test_tells_clients_to_write_without_tokens(self, server: Server) -> None:
        answer = server.call("GET", f"/csrf-token?client={uuid4()}")
        assert answer.status == 422
        assert b"CSRF protection is disabled." in answer.content

    def test_has_no_default_storage_and_no_limits(self, server: Server) -> None:
        expected = {"default_result_storage_block_id": None}
        assert server.call("GET", "/admin/storage").json == expected
        path = "/v2/concurrency_limits/increment-with-lease"
        answer = server.call("POST", path, {"names": ["tag:io"], "slots": 1})
        assert answer.json["limits"] == []
        assert UUID(answer.json["lease_id"])

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/flows/no-uuid", 404),
            ("PUT", "/flows/", 405),
        ],
    )
    def test_knows_its_paths(self, server: Server, method: str, path: str, status: int) -> None:
        answer = server.call(method, path)
        assert answer.status == status
        assert list(answer.json) == ["detail"]


class TestFlows:
    def test_live(self, server: Server) -> None:
        created = server.call("POST", "/flows/", {"name": "etl", "tags": ["b", "a"]})
        assert created.status == 201
        again = server.call("POST", "/flows/", {"name": "etl", "tags": []})
        assert (again.status, again.json) == (200, created.json)
        path = f"/flows/{created.json['id']}"
        assert server.call("GET", "/flows/name/etl").json == created.json
        assert server.call("PATCH", path, {"tags": ["c"]}).status == 204
        assert server.call("GET", path).json["tags"] == ["c"]
        assert server.call("POST", "/flows/count", {}).json == 1
        assert server.call("DELETE", path).status == 204
        for method, body in (("GET", None), ("DELETE", None), ("PATCH", {})):
            assert server.call(method, path, body).status == 404

    def test_are_found(self, server: Server) -> None:
        for name in ("a", "b", "B"):
            new_flow(server, name)

        def names(**body: Any) -> list[str]:
            return [flow["name"] for flow in server.call("POST", "/flows/filter", body).json]

        assert names() == ["B", "a", "b"]
        assert names(sort="NAME_DESC", limit=1, offset=1) == ["a"]
        assert names(sort=None, limit=None, flow_runs=None) == ["B", "a", "b"]
        assert names(flows={"name": {"like_": "b"}, "operator": "and_"}) == ["B", "b"]
        assert names(limit=0) == []

    @pytest.mark.parametrize(
        ("path", "body", "loc"),
        [
            ("/flows/", {}, ["body", "name"]),
            ("/flows/", {"name": 5}, ["body", "name"]),
            ("/flows/", {"name": ""}, ["body", "name"]),
            ("/flows/", {"name": "a/b"}, ["body", "name"]),
            ("/flows/", {"name": "a\0b"}, ["body"]),
            ("/flows/", {"name": "a", "color": "red"}, ["body", "color"]),
            ("/flows/", {"name": "a", "tags": "t"}, ["body", "tags"]),
            ("/flows/", {"name": "a", "tags": ["t", 1]}, ["body", "tags", 1]),
            ("/flows/", {"name": "a", "labels": {"l": []}}, ["body", "labels", "l"]),
            ("/flows/", [], ["body"]),
            ("/flows/", b"{", ["body"]),
            ("/flows/", b"[" * 100_000, ["body"]),
            ("/flows/", b"\xff", ["body"]),
            ("/flows/filter", {"limit": 201}, ["body", "limit"]),
            ("/flows/filter", {"limit": -1}, ["body", "limit"]),
            ("/flows/filter", {"limit": True}, ["body", "limit"]),
            ("/flows/filter", {"offset": -1}, ["body", "offset"]),
            ("/flows/filter", {"sort": "COLOR"}, ["body", "sort"]),
            ("/flows/filter", {"flows": {"color": {}}}, ["body", "flows", "color"]),
            ("/flows/filter", {"flows": {"id": {"any_": ["x"]}}}, ["body"]),
            ("/flow_runs/filter", {"flow_runs": {"start_time": {"after_": "noon"}}}, None),
            ("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["X"]}}}}, ["body"]),
        ],
    )
    def test_refuse(self, server: Server, path: str, body: Any, loc: Any) -> None:
        answer = server.call("POST", path, body)
        assert answer.status == 422
        assert answer.json["exception_message"] == "The request is not as this API wants it."
        assert "request_body" in answer.json
        if loc is not None:
            assert answer.json["exception_detail"][0]["loc"] == loc


class TestFlowRuns:
    def test_live(self, server: Server) -> None:
        run = new_run(server, tags=["t"], parameters={"n": 2**70, "s": "✓"})
        path = f"/flow_runs/{run['id']}"
        assert run["state"]["type"] == run["state_type"] == "PENDING"
        assert run["parameters"] == {"n": 2**70, "s": "✓"}
        assert run["state"]["timestamp"].endswith("Z")
        assert server.call("PATCH", path, {"name": "renamed"}).status == 204
        assert server.call("PATCH", f"{path}/labels", {"l": 1}).status == 204
        read = server.call("GET", path).json
        assert (read["name"], read["tags"], read["labels"]["l"]) == ("renamed", ["t"], 1)
        assert (
            server.call("POST", "/flow_runs/count", {"flow_runs": {"tags": {"all_": ["t"]}}}).json
            == 1
        )
        found = server.call(
            "POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}}
        )
        assert [each["id"] for each in found.json] == [run["id"]]

    def test_are_deleted_with_their_logs(self, server: Server) -> None:
        run = new_run(server)
        line = {"name": "l", "level": 20, "message": "m", "timestamp": "2026-01-01T00:00:00Z"}
        lines = [{**line, "flow_run_id": run["id"]}, {**line, "flow_run_id": NOBODY}]
        assert server.call("POST", "/logs/", lines).status == 201
        assert server.call("POST", "/logs/count", {}).json == 2
        assert server.call("DELETE", f"/flow_runs/{run['id']}").status == 204
        assert server.call("DELETE", f"/flow_runs/{run['id']}").status == 404
        assert [each["flow_run_id"] for each in server.call("POST", "/logs/filter", {}).json] == [
            NOBODY
        ]

    def test_are_created_once_for_a_key(self, server: Server) -> None:
        body = {"flow_id": new_flow(server)["id"], "idempotency_key": "k"}
        first, second = (server.call("POST", "/flow_runs/", body) for _ in range(2))
        assert (first.status, second.status) == (201, 200)
        assert first.json["id"] == second.json["id"]

    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("POST", "/flow_runs/", {"flow_id": NOBODY}, 409),
            ("POST", "/flow_runs/", {"flow_id": "x"}, 422),
            ("POST", "/flow_runs/", {"flow_id": NOBODY, "state": {"type": "BAD"}}, 422),
            ("POST", "/flow_runs/", {"flow_id": NOBODY, "parameters": {"p": "x" * 524_281}}, 422),
            ("POST", "/flow_runs/", {"flow_id": NOBODY, "parameters": {"p": "x" * 524_280}}, 409),
            ("PATCH", f"/flow_runs/{NOBODY}", {"name": "n"}, 404),
            ("PATCH", f"/flow_runs/{NOBODY}/labels", {"l": "v"}, 404),
            ("PATCH", f"/flow_runs/{NOBODY}/labels", {"l": None}, 422),
            ("POST", f"/flow_runs/{NOBODY}/set_state", {"state": {"type": "RUNNING"}}, 404),
            (
                "POST",
                f"/flow_runs/{NOBODY}/set_state",
                {"state": {"type": "RUNNING", "timestamp": "2026-01-01T00:00:00Z"}},
                422,
            ),
            (
                "POST",
                f"/flow_runs/{NOBODY}/set_state",
                {"state": {"type": "RUNNING", "state_details": {"x": 1}}},
                422,
            ),
            ("GET", f"/flow_runs/{NOBODY}", None, 404),
            ("GET", f"/flow_run_states/{NOBODY}", None, 404),
            ("GET", "/flow_run_states/", None, 422),
            (
                "POST",
                "/task_runs/",
                {"task_key": "k", "dynamic_key": "0", "flow_run_id": NOBODY},
                409,
            ),
            (
                "POST",
                "/task_runs/",
                {"task_key": "k", "dynamic_key": "0", "cache_key": "x" * 2001},
                422,
            ),
            ("POST", f"/task_runs/{NOBODY}/set_state", {"state": {"type": "RUNNING"}}, 404),
            ("DELETE", f"/task_runs/{NOBODY}", None, 404),
        ],
    )
    def test_fail(self, server: Server, method: str, path: str, body: Any, status: int) -> None:
        answer = server.call(method, path, body)
        assert answer.status == status, answer.content
        if path.endswith(("/set_state", "/labels")) and status == 404:
            assert "There is no" in answer.json["exception_message"]

    def test_are_changed_only_while_scheduled(self, server: Server) -> None:
        path = f"/flow_runs/{new_run(server)['id']}"
        assert server.call("PATCH", path, {"job_variables": {"v": 1}}).status == 400


class TestOrchestration:
    def test_a_repeated_request_changes_nothing(self, server: Server) -> None:
        run_id = new_run(server)["id"]
        details = {"transition_id": str(uuid4())}
        status, first = set_state(server, run_id, "RUNNING", state_details=details)
        assert (status, first["status"]) == (201, "ACCEPT")
        status, second = set_state(server, run_id, "RUNNING", state_details=details)
        assert (status, second["status"]) == (200, "REJECT")
        assert second["state"] == first["state"]
        history = server.call("GET", f"/flow_run_states/?flow_run_id={run_id}").json
        assert [state["name"] for state in history] == ["Pending", "Running"]
        assert server.call("GET", f"/flow_run_states/{history[1]['id']}").json == history[1]

    def test_waits_for_the_scheduled_time(self, server: Server) -> None:
        due = datetime.now(UTC) + timedelta(hours=1)
        details = {"scheduled_time": due.isoformat()}
        run_id = new_run(server, state={"type": "SCHEDULED", "state_details": details})["id"]
        status, result = set_state(server, run_id, "RUNNING")
        assert (status, result["status"], result["state"]) == (200, "WAIT", None)
        assert 3590 < result["details"]["delay_seconds"] <= 3600
        assert set_state(server, run_id, "PENDING")[1]["status"] == "ACCEPT"
        assert set_state(server, run_id, "RUNNING")[1]["status"] == "WAIT"
        assert set_state(server, run_id, "RUNNING", force=True)[1]["status"] == "ACCEPT"

    def test_retries(self, server: Server) -> None:
        run_id = new_run(server, empirical_policy={"retries": 1, "retry_delay": 0})["id"]
        set_state(server, run_id, "RUNNING")
        status, result = set_state(server, run_id, "FAILED", message="broken")
        assert (status, result["status"]) == (201, "REJECT")
        state = result["state"]
        assert (state["type"], state["name"], state["message"]) == (
            "SCHEDULED",
            "AwaitingRetry",
            "broken",
        )
        run = server.call("GET", f"/flow_runs/{run_id}").json
        assert run["empirical_policy"]["retry_type"] == "in_process"
        set_state(server, run_id, "RUNNING")
        assert set_state(server, run_id, "FAILED")[1]["status"] == "ACCEPT"
        run = server.call("GET", f"/flow_runs/{run_id}").json
        assert (run["run_count"], run["state_type"]) == (2, "FAILED")
        assert run["empirical_policy"]["retry_type"] is None

    @pytest.mark.parametrize(
        ("path", "proposed", "status"),
        [
            (["RUNNING"], "PENDING", "ABORT"),
            (["RUNNING", "COMPLETED"], "CRASHED", "ABORT"),
            (["RUNNING", "FAILED"], "SCHEDULED", "ABORT"),
            (["RUNNING", "FAILED"], "RUNNING", "ACCEPT"),
            (["RUNNING", "CANCELLING"], "COMPLETED", "REJECT"),
            (["RUNNING", "CANCELLING"], "CANCELLED", "ACCEPT"),
            ([], "PAUSED", "REJECT"),
            (["RUNNING"], "PAUSED", "ACCEPT"),
            (["RUNNING", "PAUSED"], "PENDING", "REJECT"),
            (["RUNNING", "PAUSED"], "RUNNING", "ACCEPT"),
            (["RUNNING", "RUNNING"], "COMPLETED", "ACCEPT"),
        ],
    )
    def test_rules(self, server: Server, path: list[str], proposed: str, status: str) -> None:
        run_id = new_run(server)["id"]
        for type in path:
            assert set_state(server, run_id, type)[1]["status"] == "ACCEPT"
        assert set_state(server, run_id, proposed)[1]["status"] == status
        entered = [proposed] if status == "ACCEPT" else []
        history = server.call("GET", f"/flow_run_states/?flow_run_id={run_id}").json
        assert [state["type"] for state in history] == ["PENDING", *path, *entered]

    def test_a_persisted_result_is_kept(self, server: Server) -> None:
        run_id = new_run(server)["id"]
        set_state(server, run_id, "RUNNING")
        data = {"storage_key": "k"}
        assert set_state(server, run_id, "COMPLETED", data=data)[1]["state"]["data"] == data
        for force in (False, True):
            assert set_state(server, run_id, "RUNNING", force=force)[1]["status"] == "REJECT"
            assert set_state(server, run_id, "COMPLETED", force=force)[1]["status"] == "REJECT"

    def test_each_state_is_told_by_an_event(self, server: Server, stored: str) -> None:
        run = new_run(server, tags=["b", "a"])
        set_state(server, run["id"], "RUNNING")
        after, before = stored_events(stored, 2)
        assert (before.event, after.event) == (
            "prefect.flow-run.Pending",
            "prefect.flow-run.Running",
        )
        assert after.follows == before.id == UUID(run["state"]["id"])
        assert [each["prefect.resource.role"] for each in after.related] == ["flow", "tag", "tag"]
        assert after.payload["intended"] == {"from": "PENDING", "to": "RUNNING"}

    def test_a_task_runs_only_while_its_flow_does(self, server: Server) -> None:
        run_id = new_run(server)["id"]
        body = {"name": "t", "task_key": "t", "dynamic_key": "0", "flow_run_id": run_id}
        created = server.call("POST", "/task_runs/", body)
        assert created.status == 201
        assert server.call("POST", "/task_runs/", body).status == 200
        path = f"/task_runs/{created.json['id']}"
        proposal = {"state": {"type": "RUNNING"}}
        assert server.call("POST", f"{path}/set_state", proposal).json["status"] == "ABORT"
        set_state(server, run_id, "RUNNING")
        assert server.call("POST", f"{path}/set_state", proposal).json["status"] == "ACCEPT"
        again = server.call("POST", f"{path}/set_state", proposal).json
        assert again["state"]["name"] == "Rerunning"
        history = server.call("GET", f"/task_run_states/?task_run_id={created.json['id']}").json
        assert len(history) == 3
        assert server.call("POST", "/task_runs/count", {}).json == 1
        assert server.call("POST", "/task_runs/filter", {}).json[0]["state_name"] == "Rerunning"
        assert server.call("DELETE", path).status == 204


class TestBlocks:
    def test_live(self, server: Server) -> None:
        kind = server.call("POST", "/block_types/", {"name": "Key", "slug": "key"}).json
        fields = {
            "title": "Key",
            "type": "object",
            "properties": {"value": {"type": "string"}},
            "secret_fields": ["value"],
            "block_type_slug": "key",
            "block_schema_references": {},
        }
        body = {"fields": fields, "block_type_id": kind["id"], "version": "1"}
        first, again = (server.call("POST", "/block_schemas/", body) for _ in range(2))
        assert (first.status, again.status) == (201, 200)
        schema = first.json
        read = server.call("GET", f"/block_schemas/checksum/{schema['checksum']}?version=1")
        assert read.json == schema
        ids = {"block_schema_id": schema["id"], "block_type_id": kind["id"]}
        document = {"name": "mine", "data": {"value": "s3cr3t"}, **ids}
        created = server.call("POST", "/block_documents/", document)
        assert (created.status, created.json["data"]) == (201, {"value": "********"})
        assert created.json["block_schema"]["fields"] == fields
        assert server.call("POST", "/block_documents/", document).status == 409
        by_name = "/block_types/slug/key/block_documents/name/mine"
        assert server.call("GET", by_name).json["data"] == {"value": "********"}
        read = server.call("GET", f"{by_name}?include_secrets=true")
        assert read.json["data"] == {"value": "s3cr3t"}
        path = f"/block_documents/{created.json['id']}"
        assert server.call("PATCH", path, {"data": {"value": "new"}}).status == 204
        assert server.call("GET", f"{path}?include_secrets=true").json["data"] == {"value": "new"}
        cycle = {"data": {"me": {"$ref": {"block_document_id": created.json["id"]}}}}
        assert server.call("PATCH", path, cycle).status == 400
        assert server.call("POST", "/block_documents/filter", {}).json[0]["name"] == "mine"
        assert server.call("POST", "/block_documents/count", {}).json == 1
        assert server.call("DELETE", path).status == 204
        assert server.call("GET", by_name).status == 404

    def test_refuse(self, server: Server, stored: str) -> None:
        with connect(stored) as db:
            protected = blocks.create_type(db, "Secret", "secret", is_protected=True)
            schema = blocks.create_schema(db, {"title": "S", "type": "object"}, protected.id)
        ids = {"block_schema_id": str(schema.id), "block_type_id": str(protected.id)}
        for method, path, body, status in (
            ("DELETE", f"/block_types/{protected.id}", None, 403),
            ("DELETE", f"/block_schemas/{schema.id}", None, 403),
            ("POST", "/block_types/", {"name": "Prefect X", "slug": "x"}, 403),
            ("POST", "/block_types/", {"name": "Other", "slug": "secret"}, 409),
            ("POST", "/block_types/", {"name": "Other", "slug": "No"}, 422),
            ("POST", "/block_schemas/", {"fields": {}, "block_type_id": NOBODY}, 404),
            ("POST", "/block_documents/", {"data": {}, **ids}, 422),
            ("POST", "/block_documents/", {"name": "No", "data": {}, **ids}, 422),
            ("POST", "/block_documents/", {"name": "x", **ids, "block_schema_id": NOBODY}, 409),
            ("GET", f"/block_documents/{NOBODY}?include_secrets=maybe", None, 422),
            ("GET", "/block_types/slug/nothing", None, 404),
        ):
            answer = server.call(method, path, body)
            assert answer.status == status, (method, path, answer.content)


class TestEvents:
    def test_are_posted_and_found(self, server: Server, stored: str) -> None:
        sent = [new_event(event=f"test.{n % 2}") for n in range(5)]
        assert server.call("POST", "/events", sent).status == 204
        assert len(stored_events(stored, 5)) == 5
        page = server.call("POST", "/events/filter", {"limit": 3}).json
        assert (len(page["events"]), page["total"]) == (3, 5)
        following = page["next_page"].partition("/api")[2]
        rest = server.call("GET", following).json
        assert (len(rest["events"]), rest["total"], rest["next_page"]) == (2, 5, None)
        found = [event["id"] for event in page["events"] + rest["events"]]
        assert sorted(found) == sorted(event["id"] for event in sent)
        counts = server.call("POST", "/events/count-by/event", {"filter": {}}).json
        assert [(each["label"], each["count"]) for each in counts] == [("test.0", 3), ("test.1", 2)]

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("/events", {}, 422),
            ("/events", [new_event(resource={})], 422),
            ("/events", [new_event(id=None)], 422),
            ("/events", [new_event(event="x" * 1025)], 422),
            ("/events", [new_event(related=[{"prefect.resource.id": "x"}])], 422),
            ("/events", [new_event(payload={"x": "x" * 1_500_000})], 204),
            ("/events/filter", {"limit": 51}, 422),
            ("/events/filter", {"filter": {"color": "red"}}, 422),
            ("/events/count-by/color", {"filter": {}}, 422),
            ("/events/count-by/time", {"filter": {}, "time_unit": "second"}, 422),
            ("/events/count-by/time", {"filter": {}, "time_interval": 0.001}, 422),
        ],
    )
    def test_refuse(self, server: Server, path: str, body: Any, status: int) -> None:
        assert server.call("POST", path, body).status == status
        assert server.call("POST", "/events/filter", {}).json["total"] == 0

    @pytest.mark.parametrize("token", ["", "x", base64.b64encode(b"{}").decode()])
    def test_refuse_tokens_that_are_none(self, server: Server, token: str) -> None:
        assert server.call("GET", f"/events/filter/next?page-token={token}").status == 403


class TestWebsocket:
    def test_events_that_come_twice_are_stored_once(self, server: Server, stored: str) -> None:
        sent = [new_event() for _ in range(50)]
        with websocket(server) as connection:
            assert connection.subprotocol == "prefect"
            assert authenticate(connection) == '{"type":"auth_success"}'
            for event in (*sent, *sent[:20], *reversed(sent)):
                connection.send(dumps(event))
        found = stored_events(stored, 50)
        assert sorted(str(event.id) for event in found) == sorted(e["id"] for e in sent)

    def test_tells_of_task_runs(self, server: Server, stored: str) -> None:
        run_id = new_run(server)["id"]
        good, orphan = task_event(run_id), task_event(NOBODY)
        broken = {**task_event(run_id), "payload": {}}
        with websocket(server) as connection:
            authenticate(connection)
            for frame in ("no JSON", "[]", "{}", dumps(broken), dumps(orphan), dumps(good)):
                connection.send(frame)
        # Whatever is wrong with one, the others are stored, and its event is.
        assert len(stored_events(stored, 4)) == 4
        with connect(stored) as db:
            deadline = time.monotonic() + 10
            while not task_runs.count(db) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert [run.name for run in task_runs.find(db)] == ["add-1"]

    def test_older_clients_know_no_handshake(self, server: Server, stored: str) -> None:
        with websocket(server, subprotocols=None) as connection:
            connection.send(dumps(new_event()))
        assert len(stored_events(stored, 1)) == 1

    @pytest.mark.parametrize("first", ["{}", "[]", "x", '{"type": "event"}', b"\x00"])
    def test_begins_with_a_handshake(self, server: Server, first: str | bytes) -> None:
        with websocket(server) as connection:
            connection.send(first)
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(10)
        if isinstance(first, str):
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
        assert server.call("GET", "/health").status == 200


def task_event(flow_run_id: str) -> dict[str, Any]:
    return new_event(
        event="prefect.task-run.Running",
        resource={
            "prefect.resource.id": f"prefect.task-run.{uuid4()}",
            "prefect.orchestration": "client",
        },
        related=[
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
                "prefect.resource.role": "flow-run",
            }
        ],
        payload={
            "validated_state": {"type": "RUNNING", "name": "Running"},
            "task_run": {"name": "add-1", "task_key": "add", "dynamic_key": str(uuid4())},
        },
    )


class TestLimits:
    def test_long_bodies(self, server: Server) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            # Answered before any of it is sent.
            head = "POST /api/flows/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10000001\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_long_bodies_of_unknown_length(self, server: Server) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            head = "POST /api/flows/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode())
            chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
            try:
                for _ in range(20):
                    connection.sendall(chunk)
            except OSError:
                pass  # it has answered, and reads no more
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_slow_bodies(self, url: str, tmp_path: Path) -> None:
        with (
            example_server(url, tmp_path, "--body-timeout", "0.5") as server,
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection,
        ):
            head = "POST /api/flows/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


class TestAuthentication:
    SECRET = "admin:pässword"

    def test_requests(self, url: str, tmp_path: Path) -> None:
        with example_server(url, tmp_path, PREFECT_SERVER_API_AUTH_STRING=self.SECRET) as server:
            assert server.call("GET", "/health").status == 200
            assert server.call("GET", "/ready").status == 200
            right = base64.b64encode(self.SECRET.encode()).decode()
            wrong = base64.b64encode(b"admin:x").decode()
            for header, status in (
                (None, 401),
                (f"Basic {wrong}", 401),
                (f"Bearer {right}", 401),
                ("Basic ***", 401),
                ("Basic", 401),
                (f"Basic {right}", 200),
            ):
                headers = {"Authorization": header} if header else {}
                answer = server.call("POST", "/flows/count", {}, headers=headers)
                assert answer.status == status
            assert server.call("GET", "/").status == 401

    def test_websockets(self, url: str, tmp_path: Path) -> None:
        with example_server(url, tmp_path, PREFECT_SERVER_API_AUTH_STRING="admin:x") as server:
            with pytest.raises(InvalidStatus), websocket(server, subprotocols=None):
                pass
            for token in (None, "admin:y"):
                with websocket(server) as connection:
                    with pytest.raises(ConnectionClosed) as closed:
                        authenticate(connection, token)
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1008
            with websocket(server) as connection:
                assert authenticate(connection, "admin:x") == '{"type":"auth_success"}'

    def test_other_machines_need_it(self, tmp_path: Path) -> None:
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-m", "examples.server", "--host", "0.0.0.0", "--port", "0"],
            cwd=root,
            env={"PREFECT_DATABASE_PATH": f"{tmp_path}/x.db", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        assert "PREFECT_SERVER_API_AUTH_STRING" in done.stderr


class TestFaults:
    def test_accepted_events_are_written_before_the_end(self, url: str, tmp_path: Path) -> None:
        with example_server(url, tmp_path) as server, websocket(server) as connection:
            authenticate(connection)
            for _ in range(3000):
                connection.send(dumps(new_event()))
            connection.ping().wait(30)
            server.process.terminate()
            with pytest.raises(ConnectionClosed):
                connection.recv(30)
        with connect(url) as db:
            assert events.count(db) == 3000

    @pytest.mark.only("postgres", "a SQLite database has no server to stop")
    def test_a_database_that_is_down(self, backend_name: str, tmp_path: Path) -> None:
        with postgres_server() as url, example_server(url, tmp_path) as server:
            assert server.call("GET", "/ready").status == 200
            stop_postgres(Path(str(conninfo_to_dict(url)["host"])) / "data" / "postmaster.pid")
            answer = server.call("POST", "/flows/", {"name": "etl"}, timeout=60)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.json == {"exception_message": "Service Unavailable"}
            assert server.call("GET", "/ready", timeout=60).status == 503
            assert server.call("GET", "/health").status == 200

    def test_a_database_that_cannot_be_opened(self, tmp_path: Path) -> None:
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-m", "examples.server", "--port", "0"],
            cwd=root,
            env={"PREFECT_DATABASE_PATH": f"{tmp_path}/no/x.db", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 3
        assert "no/x.db" in done.stderr
