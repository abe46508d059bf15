"""Ids: RFC 9562's layout, the order of time, no repetition; and made-up names."""

from __future__ import annotations

import re
import time
from uuid import RFC_4122, UUID

from prefect_db.ids import slug, uuid7

# The 12 bits after the milliseconds count 1/4096 of one: that many nanoseconds, rounded up.
STEP = 245


def nanoseconds(id: UUID) -> int:
    """The time in an id: 48 bits of milliseconds, 4 of the version, 12 of their fraction."""
    return (id.int >> 80) * 1_000_000 + ((id.int >> 64 & 0xFFF) * 1_000_000 >> 12)


def test_the_version_is_7() -> None:
    assert {uuid7().version for _ in range(1000)} == {7}


def test_the_variant_is_that_of_the_rfc() -> None:
    assert {uuid7().variant for _ in range(1000)} == {RFC_4122}


def test_the_time_is_that_of_the_clock() -> None:
    for _ in range(1000):
        before = time.time_ns()
        made = nanoseconds(uuid7())
        after = time.time_ns()
        assert before - STEP <= made <= after


def test_ids_sort_by_time_within_a_millisecond() -> None:
    for _ in range(1000):
        earlier = uuid7()
        bound = time.time_ns() + STEP
        while time.time_ns() <= bound:
            pass
        later = uuid7()
        assert earlier < later
        assert str(earlier) < str(later)


def test_ids_do_not_repeat() -> None:
    assert len({uuid7() for _ in range(100_000)}) == 100_000


def test_the_last_62_bits_are_random() -> None:
    ids = [uuid7().int for _ in range(1000)]
    ones = [sum(id >> bit & 1 for id in ids) for bit in range(62)]
    assert all(300 < count < 700 for count in ones)


def test_a_slug_is_an_adjective_and_an_animal() -> None:
    assert all(re.fullmatch(r"[a-z]+-[a-z]+", slug()) for _ in range(1000))


def test_slugs_differ() -> None:
    assert len({slug() for _ in range(1000)}) > 500
