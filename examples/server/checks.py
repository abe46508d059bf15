"""Checks for `Annotated` in the bodies of requests: what is wrong with a value, if anything is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

_NAME = re.compile(r"[^/%&><]+")
_SLUG = re.compile(r"[a-z0-9-]*")


def is_name(value: str) -> str | None:
    """For the names of flows and block types."""
    return None if _NAME.fullmatch(value) else "String should match pattern '^[^/%&><]+$'"


def is_slug(value: str) -> str | None:
    """For the slugs of block types and the names of block documents."""
    return (
        None
        if _SLUG.fullmatch(value)
        else "must only contain lowercase letters, numbers, and dashes"
    )


def _is_scalar(value: Any) -> str | None:
    scalar = isinstance(value, str | int | float)
    return None if scalar else "Input should be a string, a number, or true or false"


Label = Annotated[Any, _is_scalar]


def at_most_long(most: int) -> Callable[[str], str | None]:
    """A text of at most so many characters."""
    return lambda value: (
        None if len(value) <= most else f"String should have at most {most} characters"
    )


def is_task_policy(value: Mapping[str, Any]) -> str | None:
    """A task's policy with at most 50 delays, each for one retry."""
    delays = value.get("retry_delay")
    if isinstance(delays, list) and len(delays) > 50:
        return "Can not configure more than 50 retry delays per task."
    return None
