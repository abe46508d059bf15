"""Which state a run may enter. Rules: Prefect's server, orchestration/core_policy.py.

A rule looks at a run's present state and at the one that is proposed. It changes the proposal in
passing, or it gives a `Verdict`, which ends the matter:

- REJECT: the run enters another state, or stays as it is;
- WAIT: not yet, ask again in so many seconds;
- ABORT: no, and the client's run is over.

If no rule objects, the proposal is accepted. All of it is one transaction that has the run locked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from examples.server import lifecycle
from examples.server.errors import Missing
from prefect_db import Queryable, flow_runs, states, task_runs
from prefect_db.flow_runs import FlowRun
from prefect_db.states import TERMINAL, State, StateType
from prefect_db.task_runs import TaskRun

S = StateType
Run = FlowRun | TaskRun


@dataclass(slots=True)
class Verdict:
    """Why a proposal is not accepted, and what happens instead.

    Attributes:
        state: What the run enters instead; None: it stays as it is.
        delay: Seconds to wait before asking again.
    """

    status: Literal["REJECT", "WAIT", "ABORT"]
    reason: str
    state: State | None = None
    delay: int | None = None


@dataclass(slots=True)
class Transition:
    """From a run's present state to a proposed one.

    Attributes:
        policy: Changes to the run's empirical_policy, written before the state is entered.
        policy_after: The same, written when the proposal was accepted and entered.
    """

    db: Queryable
    run: Run
    initial: State | None
    proposed: State
    policy: dict[str, Any] = field(default_factory=dict)
    policy_after: dict[str, Any] = field(default_factory=dict)

    def goes(self, before: frozenset[StateType], after: frozenset[StateType]) -> bool:
        """Whether it leads from one of these types to one of those."""
        return (
            self.initial is not None and self.initial.type in before and self.proposed.type in after
        )

    def propose(self, name: str | None = None, **details: Any) -> None:
        """Change the proposal's name, if given, and details."""
        self.proposed = replace(
            self.proposed,
            name=name or self.proposed.name,
            state_details={**self.proposed.state_details, **details},
        )


Rule = Callable[[Transition], Verdict | None]
ANY = frozenset(S)


def set_flow_run_state(
    db: Queryable, flow_run_id: UUID, proposed: State, *, force: bool
) -> dict[str, Any]:
    """Prefect's answer to a proposal; what it says has been done, in the transaction `db`.

    Raises:
        Missing: There is no such flow run.
    """
    run = flow_runs.get(db, flow_run_id, for_update=True)
    if run is None:
        raise Missing(f"There is no flow run {flow_run_id}")
    initial = _state_of(flow_runs.get_states, db, run)
    transition = Transition(db, run, initial, proposed)
    verdict = _judge(transition, FORCED_FLOW_RULES if force else FLOW_RULES)
    if transition.policy:
        policy = {**run.empirical_policy, **transition.policy}
        run = flow_runs.update(db, flow_run_id, empirical_policy=policy)
    state = verdict.state if verdict else transition.proposed
    if state is not None:
        state = flow_runs.set_state(db, flow_run_id, state)
        lifecycle.emit(db, flow_run_id, initial, state)
        if verdict is None and transition.policy_after:
            policy = {**run.empirical_policy, **transition.policy_after}
            flow_runs.update(db, flow_run_id, empirical_policy=policy)
    return _result(verdict, state, initial)


def set_task_run_state(
    db: Queryable, task_run_id: UUID, proposed: State, *, force: bool
) -> dict[str, Any]:
    """The same for a task run: only those that a client orchestrates through the API."""
    run = task_runs.get(db, task_run_id, for_update=True)
    if run is None:
        raise Missing(f"There is no task run {task_run_id}")
    initial = _state_of(task_runs.get_states, db, run)
    transition = Transition(db, run, initial, proposed)
    verdict = None if force else _judge(transition, TASK_RULES)
    state = verdict.state if verdict else transition.proposed
    if state is not None:
        state = task_runs.set_state(db, task_run_id, state)
    return _result(verdict, state, initial)


def _state_of(get: Callable[..., dict[UUID, State]], db: Queryable, run: Run) -> State | None:
    return get(db, [run.state_id]).get(run.state_id) if run.state_id else None


def _judge(transition: Transition, rules: tuple[Rule, ...]) -> Verdict | None:
    for rule in rules:
        verdict = rule(transition)
        if verdict is not None:
            return verdict
    return None


def _result(verdict: Verdict | None, state: State | None, initial: State | None) -> dict[str, Any]:
    status = verdict.status if verdict else "ACCEPT"
    details: dict[str, Any] = {"type": f"{status.lower()}_details"}
    if verdict is not None:
        details["reason"] = verdict.reason
        if verdict.status == "REJECT" and state is None:
            state = initial
    if verdict is not None and verdict.delay is not None:
        details["delay_seconds"] = verdict.delay
    return {"state": state, "status": status, "details": details}


def repeated(t: Transition) -> Verdict | None:
    """A client that did not hear the answer asks again, with the same transition_id."""
    if t.initial is not None:
        ids = [state.state_details["transition_id"] for state in (t.initial, t.proposed)]
        if ids[0] is not None and ids[0] == ids[1]:
            return Verdict("REJECT", "The run has made this transition before.")
    return None


def loses_result(t: Transition) -> Verdict | None:
    """A completed run keeps its persisted result."""
    if t.initial is None or t.initial.type is not S.COMPLETED or not _persisted(t.initial.data):
        return None
    if t.proposed.type not in TERMINAL:
        return Verdict("REJECT", "The run has completed, with a result that is kept.")
    if t.proposed.type is S.COMPLETED and not _persisted(t.proposed.data):
        return Verdict(
            "REJECT",
            "The run has completed, with a result; a state without one cannot take its place.",
        )
    return None


def leaves_terminal(t: Transition) -> Verdict | None:
    """A run that has ended can be run again, or ended otherwise, but not stopped."""
    if t.initial is None or not t.goes(TERMINAL, ANY):
        return None
    if t.proposed.type in (S.CANCELLING, S.PAUSED, S.CRASHED):
        return Verdict("ABORT", f"The run has ended: it is {t.initial.type}.")
    lost = loses_result(t)
    if lost is not None:
        return lost
    scheduled = t.proposed.type is S.SCHEDULED
    if scheduled and isinstance(t.run, FlowRun) and t.run.deployment_id is None:
        return Verdict("ABORT", "Only a deployment can schedule a run again.")
    if t.proposed.type not in TERMINAL:
        retry_type = "reschedule" if scheduled else None
        t.policy = {"resuming": False, "pause_keys": [], "retry_type": retry_type}
    return None


def leaves_cancelling(t: Transition) -> Verdict | None:
    if t.goes(frozenset({S.CANCELLING}), ANY - {S.CANCELLED}):
        return Verdict(
            "REJECT",
            "A run that is being cancelled can only become cancelled.",
        )
    return None


def cancels_without_infrastructure(t: Transition) -> Verdict | None:
    """Where nothing runs, nothing has to be stopped first."""
    if t.initial is None or not t.goes(
        frozenset({S.SCHEDULED, S.PAUSED}), frozenset({S.CANCELLING})
    ):
        return None
    pid = isinstance(t.run, FlowRun) and t.run.infrastructure_pid
    if t.initial.name == "Resuming" or (t.initial.type is S.SCHEDULED and not pid):
        kind = "Scheduled"
    elif t.initial.type is S.PAUSED and t.initial.state_details["pause_reschedule"]:
        kind = "Suspended"
    else:
        return None
    reason = f"The run is {kind.lower()}: there is nothing to stop."
    return Verdict("REJECT", reason, states.cancelled())


def is_submitted_twice(t: Transition) -> Verdict | None:
    """Of two workers that submit one run, the second gets here."""
    before = frozenset({S.PENDING, S.CANCELLING, S.RUNNING, S.CANCELLED})
    if t.initial is None or not t.goes(before, frozenset({S.PENDING})):
        return None
    names = t.initial.name, t.proposed.name
    if t.initial.type is S.PENDING and names[0] != names[1] and names[1] != "Pending":
        kept = ("scheduled_time", "deployment_concurrency_lease_id")
        t.propose(**{key: t.initial.state_details[key] for key in kept})
        return None
    return Verdict(
        "ABORT",
        f"The run is {t.initial.type}, so it cannot become PENDING.",
    )


def is_marked_late(t: Transition) -> Verdict | None:
    if t.initial is None or (t.proposed.type, t.proposed.name) != (S.SCHEDULED, "Late"):
        return None
    if t.initial.type is not S.SCHEDULED:
        return Verdict("REJECT", "A run that is not scheduled cannot be late.")
    if t.initial.name == "Late":
        return Verdict("REJECT", "The run is called late already.")
    return None


def pauses(t: Transition) -> Verdict | None:
    """Only what runs can be paused, and by each pause of its code once."""
    if t.proposed.type is not S.PAUSED or not isinstance(t.run, FlowRun):
        return None
    verb = "suspend" if t.proposed.name == "Suspended" else "pause"
    if t.initial is None:
        return Verdict("ABORT", f"A run without a state cannot {verb}.")
    if t.initial.type is not S.RUNNING:
        return Verdict("REJECT", f"A run that is not running cannot {verb}.")
    details, keys = t.proposed.state_details, t.run.empirical_policy.get("pause_keys") or []
    if details["pause_key"] in keys:
        return Verdict("REJECT", f"The run has passed this {verb} before.")
    if details["pause_reschedule"] and t.run.parent_task_run_id is not None:
        return Verdict("ABORT", f"A subflow cannot {verb}.")
    if details["pause_reschedule"] and t.run.deployment_id is None:
        return Verdict("ABORT", f"A run without a deployment cannot {verb}.")
    t.policy_after = {"pause_keys": [*keys, details["pause_key"] or str(uuid4())]}
    return None


def resumes(t: Transition) -> Verdict | None:
    """A paused run goes on, or ends; unless it was paused for too long."""
    if t.initial is None or t.initial.type is not S.PAUSED or not isinstance(t.run, FlowRun):
        return None
    type, name = t.proposed.type, t.proposed.name.lower()
    if type not in TERMINAL | {S.RUNNING, S.SCHEDULED, S.CANCELLING}:
        return Verdict(
            "REJECT",
            f"A run that is {t.initial.type} cannot become {type}.",
        )
    if t.initial.state_details["pause_reschedule"] and t.run.deployment_id is None:
        return Verdict("REJECT", f"Without a deployment, a {name} run cannot be scheduled.")
    timeout = _time(t.initial, "pause_timeout")
    if type is not S.CANCELLING and timeout is not None and timeout < datetime.now(UTC):
        return Verdict(
            "REJECT",
            "The pause has lasted too long: the run cannot go on.",
            states.failed(message=f"The flow was {name} and never resumed."),
        )
    t.policy_after = {"resuming": True}
    return None


def keeps_scheduled_time(t: Transition) -> Verdict | None:
    """A pending run is still due when it was scheduled for."""
    if t.initial is not None and t.goes(frozenset({S.SCHEDULED}), frozenset({S.PENDING})):
        details = t.initial.state_details
        t.propose(
            scheduled_time=t.proposed.state_details["scheduled_time"] or details["scheduled_time"]
        )
    return None


def is_early(t: Transition) -> Verdict | None:
    """Nothing runs before its time, by the clock of the server."""
    if t.initial is None or not t.goes(frozenset({S.SCHEDULED, S.PENDING}), frozenset({S.RUNNING})):
        return None
    due = _time(t.initial, "scheduled_time")
    if due is not None:
        left = due - datetime.now(UTC)
        seconds = math.floor(left.total_seconds()) + round(left.microseconds / 1e6)
        if seconds > 0:
            return Verdict("WAIT", "It is scheduled for later", delay=seconds)
    return None


def retries_flow(t: Transition) -> Verdict | None:
    """A run that fails is due again, as often as its policy says."""
    if not t.goes(frozenset({S.RUNNING}), frozenset({S.FAILED})):
        return None
    policy = t.run.empirical_policy
    if policy["retries"] is None or t.run.run_count > policy["retries"]:
        t.policy = {"retry_type": None}
        return None
    t.policy = {"resuming": False, "pause_keys": [], "retry_type": "in_process"}
    return Verdict("REJECT", "Retrying", _awaiting_retry(t, policy["retry_delay"] or 0))


def retries_task(t: Transition) -> Verdict | None:
    if not t.goes(frozenset({S.RUNNING}), frozenset({S.FAILED})):
        return None
    policy, count = t.run.empirical_policy, t.run.run_count
    if t.proposed.state_details["retriable"] is False:
        return None
    if policy["retries"] is None or count > policy["retries"]:
        return None
    delay = policy["retry_delay"] or 0
    if isinstance(delay, list):
        delay = delay[min(count - 1, len(delay) - 1)]
    return Verdict("REJECT", "Retrying", _awaiting_retry(t, delay))


def runs_in_stopped_flow(t: Transition) -> Verdict | None:
    """A task runs only while its flow does."""
    if t.proposed.type is not S.RUNNING or not isinstance(t.run, TaskRun):
        return None
    flow_run = flow_runs.get(t.db, t.run.flow_run_id) if t.run.flow_run_id else None
    if flow_run is not None and flow_run.state_type is S.PAUSED:
        return Verdict(
            "REJECT",
            f"The flow run {flow_run.id} is paused; its tasks run when it goes on.",
            states.paused(name="NotReady"),
        )
    if flow_run is not None and flow_run.state_type is not S.RUNNING:
        return Verdict("ABORT", "A task runs only while its flow run does.")
    return None


def is_rerun(t: Transition) -> Verdict | None:
    """A second run is called what it is."""
    if t.initial is not None and t.proposed.type is S.RUNNING and t.run.run_count > 0:
        t.propose("Retrying" if t.initial.name == "AwaitingRetry" else "Rerunning")
    return None


def _persisted(data: Any) -> bool:
    return isinstance(data, dict) and bool(data) and data.get("type") != "unpersisted"


def _time(state: State, key: str) -> datetime | None:
    text = state.state_details.get(key)
    return None if text is None else datetime.fromisoformat(text)


def _awaiting_retry(t: Transition, delay: float) -> State:
    return states.scheduled(
        datetime.now(UTC) + timedelta(seconds=delay),
        name="AwaitingRetry",
        message=t.proposed.message,
        data=t.proposed.data,
    )


# In Prefect's order: the first that objects decides.
FLOW_RULES: tuple[Rule, ...] = (
    repeated,
    leaves_terminal,
    leaves_cancelling,
    cancels_without_infrastructure,
    is_submitted_twice,
    is_marked_late,
    pauses,
    resumes,
    keeps_scheduled_time,
    is_early,
    retries_flow,
)
FORCED_FLOW_RULES: tuple[Rule, ...] = (loses_result, cancels_without_infrastructure)
TASK_RULES: tuple[Rule, ...] = (
    leaves_terminal,
    runs_in_stopped_flow,
    keeps_scheduled_time,
    is_early,
    retries_task,
    is_rerun,
)
