"""Filters of each entity by the others, and of events in Prefect's full form."""

from __future__ import annotations

from typing import Any

from tests.server.processes import Server
from tests.server.test_http import new_event, new_run, stored_events


def test_runs_by_their_flows(server: Server) -> None:
    new_run(server, tags=["t"])
    new_run(server)
    body = {"flows": {"name": {"any_": ["etl"]}}, "flow_runs": {"tags": {"all_": ["t"]}}}
    assert len(server.call("POST", "/flow_runs/filter", body).json) == 1
    assert server.call("POST", "/flows/count", body).json == 1
    assert server.call("POST", "/task_runs/count", body).json == 0


def test_events(server: Server, stored: str) -> None:
    new_run(server, tags=["t"])
    new_run(server)
    server.call("POST", "/events", [new_event(resource={"prefect.resource.id": "a", "l": "x"})])
    stored_events(stored, 3)

    def total(**filter: Any) -> Any:
        answer = server.call("POST", "/events/filter", {"filter": filter})
        assert answer.status == 200, answer.content
        return answer.json["total"]

    always = {"since": "2020-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z"}
    assert total(id={"id": []}, occurred=always, order="ASC", text=None) == 3
    assert total(resource={"labels": {"l": "x"}}) == 1
    assert total(resource={"labels": {"l": ["y", "x"]}}) == 1
    assert total(related={"role": ["flow"]}) == 2
    assert total(related=[{"role": ["flow"]}, {"role": ["tag"]}]) == 1
    assert total(related={"resources_in_roles": [["prefect.tag.t", "tag"]]}) == 1
    assert total(event={"prefix": ["prefect.flow-run"]}) == 2
    counting = {"filter": {}, "time_unit": "day"}
    assert server.call("POST", "/events/count-by/time", counting).status == 200
