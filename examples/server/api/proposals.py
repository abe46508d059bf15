"""The state that a client proposes, as it comes in several bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_db import states
from prefect_db.states import State, StateType


@dataclass(slots=True, kw_only=True)
class StateCreate:
    type: StateType
    name: str | None = None
    message: str | None = None
    data: Any = None
    state_details: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> State:
        """The state, with now as its time: clients cannot say when."""
        return states.make(
            self.type,
            name=self.name,
            message=self.message,
            data=self.data,
            details=self.state_details,
        )


@dataclass(slots=True, kw_only=True)
class SetState:
    state: StateCreate
    force: bool = False
