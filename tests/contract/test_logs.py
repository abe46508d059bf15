"""Logs: written in batches, whatever runs they name, and found by run, level and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from prefect_db import Backend, BadValue, UniqueViolation, logs
from prefect_db.filters import AnyOf, Reference, Time
from prefect_db.logs import Level, Log, LogFilter, LogSort, Text

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def line(**changes: Any) -> dict[str, Any]:
    """A client's JSON."""
    return {
        "name": "prefect.flow_runs",
        "level": 20,
        "message": "Beginning flow run 'spiritual-pogona' for flow 'nightly-ötl'",
        "timestamp": "2030-01-01T12:00:00.500000Z",
        "flow_run_id": "997b3e6f-f15b-43b5-8121-e066507f3ae2",
        "task_run_id": None,
        **changes,
    }


class TestMake:
    def test_it_takes_a_clients_json(self) -> None:
        log = logs.make(**line())
        assert log == Log(
            id=log.id,
            created=log.created,
            updated=log.created,
            name="prefect.flow_runs",
            level=20,
            flow_run_id=UUID("997b3e6f-f15b-43b5-8121-e066507f3ae2"),
            task_run_id=None,
            message="Beginning flow run 'spiritual-pogona' for flow 'nightly-ötl'",
            timestamp=at(0.5),
        )

    def test_it_takes_values(self) -> None:
        id = uuid4()
        log = logs.make("run", 20, "text", NOON, flow_run_id=id, task_run_id=id)
        assert (log.flow_run_id, log.task_run_id, log.timestamp) == (id, id, NOON)

    def test_its_id_is_time_ordered(self) -> None:
        assert logs.make(**line()).id.version == 7

    def test_it_is_created_now(self) -> None:
        before = datetime.now(UTC)
        assert before <= logs.make(**line()).created <= datetime.now(UTC)

    def test_its_time_is_in_utc(self) -> None:
        text = "2030-01-01T14:00:00+02:00"
        assert logs.make(**line(timestamp=text)).timestamp == NOON

    def test_nuls_are_left_out(self) -> None:
        log = logs.make(**line(name="\0na\0me", message="te\0\0xt\0"))
        assert (log.name, log.message) == ("name", "text")

    @pytest.mark.parametrize("level", [-32768, 0, 5, 32767])
    def test_a_level_has_16_bits(self, level: int) -> None:
        assert logs.make(**line(level=level)).level == level

    @pytest.mark.parametrize(
        "changes",
        [
            {"level": 32768},
            {"level": -32769},
            {"level": 70000},
            {"level": 2**64},
            {"level": 20.5},
            {"level": "20"},
            {"level": None},
            {"name": None},
            {"name": 5},
            {"message": None},
            {"message": b"text"},
            {"timestamp": "2030-01-01T12:00:00"},
            {"timestamp": datetime(2030, 1, 1)},
            {"timestamp": "soon"},
            {"timestamp": None},
            {"timestamp": 5},
            {"flow_run_id": "no id"},
            {"flow_run_id": 5},
            {"task_run_id": "no id"},
        ],
        ids=repr,
    )
    def test_what_is_no_log_line_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(BadValue):
            logs.make(**line(**changes))


class TestWrite:
    def test_what_is_written_is_found(self, db: Backend) -> None:
        log = logs.make(**line(task_run_id=str(uuid4())))
        logs.write(db, [log])
        assert logs.find(db) == [log]

    def test_a_clients_json_is_written_as_it_is(self, db: Backend) -> None:
        logs.write(db, [line()])
        (found,) = logs.find(db)
        made = logs.make(**line())
        assert (found.name, found.level, found.message, found.timestamp, found.flow_run_id) == (
            made.name,
            made.level,
            made.message,
            made.timestamp,
            made.flow_run_id,
        )

    @pytest.mark.parametrize("size", [0, 1, 2, 5000])
    def test_a_batch_of_any_size(self, db: Backend, size: int) -> None:
        assert logs.write(db, (line(message=str(number)) for number in range(size))) == size
        assert logs.count(db) == size

    def test_lines_and_json_may_be_mixed(self, db: Backend) -> None:
        batch: list[Log | dict[str, Any]] = [logs.make(**line()), line()]
        assert logs.write(db, batch) == 2

    def test_the_row_has_the_forms_of_prefect(self, db: Backend) -> None:
        logs.write(db, [line()])
        row = db.row("SELECT name, level, flow_run_id, task_run_id, message, timestamp FROM log")
        assert row is not None
        id = "997b3e6f-f15b-43b5-8121-e066507f3ae2"
        assert tuple(row) == (
            "prefect.flow_runs",
            20,
            db.dialect.pick(sqlite=id, postgres=UUID(id)),
            None,
            "Beginning flow run 'spiritual-pogona' for flow 'nightly-ötl'",
            db.dialect.pick(sqlite="2030-01-01 12:00:00.500000", postgres=at(0.5)),
        )

    def test_the_runs_need_not_exist(self, db: Backend) -> None:
        assert logs.write(db, [line(flow_run_id=str(uuid4()), task_run_id=str(uuid4()))]) == 1

    def test_a_line_without_run_is_written(self, db: Backend) -> None:
        logs.write(db, [line(flow_run_id=None)])
        assert logs.find(db)[0].flow_run_id is None

    def test_nuls_are_left_out(self, db: Backend) -> None:
        logs.write(db, [line(name="na\0me", message="te\0xt")])
        (found,) = logs.find(db)
        assert (found.name, found.message) == ("name", "text")

    def test_equal_lines_are_all_written(self, db: Backend) -> None:
        logs.write(db, [line(), line()])
        assert logs.count(db) == 2

    def test_a_line_that_was_written_is_refused(self, db: Backend) -> None:
        log = logs.make(**line())
        logs.write(db, [log])
        with pytest.raises(UniqueViolation):
            logs.write(db, [logs.make(**line()), log])
        assert logs.find(db) == [log]

    @pytest.mark.parametrize(
        "changes",
        [
            {"unknown": 1},
            {"id": "997b3e6f-f15b-43b5-8121-e066507f3ae2"},
            {"level": 70000},
            {"timestamp": "2030-01-01T12:00:00"},
            {"message": None},
            {"message": "\ud800"},
            {"name": "\ud800"},
            {"flow_run_id": "no id"},
        ],
        ids=ascii,
    )
    def test_a_bad_line_among_good_ones_leaves_none(
        self, db: Backend, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(BadValue):
            logs.write(db, [line(), line(**changes), line()])
        assert logs.count(db) == 0

    @pytest.mark.parametrize("key", ["name", "level", "message", "timestamp"])
    def test_a_line_that_lacks_a_part_is_refused(self, db: Backend, key: str) -> None:
        lacking = {name: value for name, value in line().items() if name != key}
        with pytest.raises(BadValue):
            logs.write(db, [lacking])

    @pytest.mark.parametrize("key", ["flow_run_id", "task_run_id"])
    def test_a_line_may_lack_its_runs(self, db: Backend, key: str) -> None:
        lacking = {name: value for name, value in line().items() if name != key}
        assert logs.write(db, [lacking]) == 1

    def test_it_belongs_to_the_callers_transaction(self, db: Backend) -> None:
        with db.transaction() as txn:
            logs.write(txn, [line()])
            txn.rollback()
        assert logs.count(db) == 0


class TestFind:
    RUN: Final = UUID(int=1)
    TASK: Final = UUID(int=2)

    @pytest.fixture
    def written(self, db: Backend) -> Backend:
        """Lines a to e; b and c are of one time, and c has the smaller id."""
        for message, level, seconds, flow_run_id, task_run_id, id in [
            ("a", 10, 3, self.RUN, None, 5),
            ("b", 20, 2, self.RUN, self.TASK, 4),
            ("c", 30, 2, None, None, 1),
            ("d", 40, 1, self.RUN, None, 2),
            ("e", 50, 5, UUID(int=9), None, 3),
        ]:
            log = logs.make(
                "run", level, message, at(seconds), flow_run_id=flow_run_id, task_run_id=task_run_id
            )
            log.id = UUID(int=id)
            logs.write(db, [log])
        return db

    @pytest.mark.parametrize(
        ("sort", "messages"),
        [(LogSort.TIMESTAMP_ASC, "dcbae"), (LogSort.TIMESTAMP_DESC, "eabcd")],
    )
    def test_sort(self, written: Backend, sort: LogSort, messages: str) -> None:
        assert "".join(log.message for log in logs.find(written, sort=sort)) == messages

    def test_every_sort_is_tested(self) -> None:
        assert len(LogSort) == 2

    def test_the_oldest_come_first_unless_said_otherwise(self, written: Backend) -> None:
        assert "".join(log.message for log in logs.find(written)) == "dcbae"

    @pytest.mark.parametrize(
        ("limit", "offset", "messages"),
        [(2, 0, "dc"), (2, 3, "ae"), (0, 0, ""), (2, 9, ""), (None, 3, "ae")],
    )
    def test_a_page(self, written: Backend, limit: int | None, offset: int, messages: str) -> None:
        found = logs.find(written, limit=limit, offset=offset)
        assert "".join(log.message for log in found) == messages

    def test_200_are_found_unless_said_otherwise(self, db: Backend) -> None:
        logs.write(db, [line()] * 201)
        assert (len(logs.find(db)), logs.count(db)) == (200, 201)

    def test_the_errors_of_a_run_since_a_time(self, written: Backend) -> None:
        filter = LogFilter(
            flow_run_id=AnyOf(any_=[self.RUN]),
            level=Level(ge_=20),
            timestamp=Time(after_=at(1.5)),
        )
        assert "".join(log.message for log in logs.find(written, filter)) == "b"

    def test_those_of_a_task(self, written: Backend) -> None:
        filter = LogFilter(task_run_id=Reference(any_=[self.TASK]))
        assert "".join(log.message for log in logs.find(written, filter)) == "b"

    def test_a_bound_in_another_zone(self, written: Backend) -> None:
        bound = at(3).astimezone(timezone(timedelta(hours=9)))
        filter = LogFilter(timestamp=Time(after_=bound))
        assert "".join(log.message for log in logs.find(written, filter)) == "ae"


class TestText:
    """What a search finds, by the letters of the lines."""

    @pytest.fixture
    def written(self, db: Backend) -> Backend:
        for message, name in [
            ("a Connection ERROR", "prefect.flow_runs"),
            ("b connection\ttimed out", "prefect.flow_runs"),
            ("c 100% of x_y [z] *?", "prefect.task_runs"),
            ("d Größe ÜBER Ωμέγα", "ДА"),
            ('e say "hi" \\ back', ""),
        ]:
            logs.write(db, [line(message=message, name=name)])
        return db

    def found(self, db: Backend, query: str, **given: Any) -> str:
        filter = LogFilter(text=Text(query=query), **given)
        letters = "".join(sorted(log.message[0] for log in logs.find(db, filter)))
        assert logs.count(db, filter) == len(letters)
        return letters

    @pytest.mark.parametrize(
        ("query", "letters"),
        [
            ("error", "a"),
            ("Err", "a"),
            ("error timed", "ab"),
            ("connection -error", "b"),
            ("-connection", "cde"),
            ("!connection !hi", "cd"),
            ("+connection +error", "a"),
            ("timed nothing +connection", "b"),
            ('"timed out"', "b"),
            ('"connection error" hi', "ae"),
            ('-"connection error"', "bcde"),
            ("prefect.task", "c"),
            ('"out prefect.flow"', "b"),
            ("100%", "c"),
            ("1%0", ""),
            ("x_y", "c"),
            ("xay", ""),
            ("[z]", "c"),
            ("*?", "c"),
            ("c*y", ""),
            ("größe", "d"),
            ("GRÖßE", "d"),
            ("über", "d"),
            ("ωΜέΓΑ", "d"),
            ("да", "d"),
            ("u0434", ""),
            ("-ü", "abce"),
            (r'"say \"hi\" \\"', "e"),
            ("back", "e"),
            ("", "abcde"),
            ("  ", "abcde"),
            ("- !", "abcde"),
            ('""', "abcde"),
        ],
    )
    def test_a_search(self, written: Backend, query: str, letters: str) -> None:
        assert self.found(written, query) == letters

    def test_beside_other_fields(self, written: Backend) -> None:
        assert self.found(written, "connection", level=Level(ge_=21)) == ""

    def test_in_an_or_each_kind_of_term_stands_for_itself(self, written: Backend) -> None:
        """As in Prefect: "error", or without "connection"."""
        both = {"operator": "or_", "level": Level(ge_=50)}
        assert self.found(written, "error -connection", **both) == "acde"

    def test_in_an_or_no_search_is_not_true(self, written: Backend) -> None:
        assert self.found(written, " ", operator="or_", level=Level(ge_=50)) == ""

    @pytest.mark.parametrize("query", ["x" * 201, "\0", "\ud800", None, 5, b"x"], ids=ascii)
    def test_what_is_no_query_is_refused(self, written: Backend, query: Any) -> None:
        with pytest.raises(BadValue):
            logs.find(written, LogFilter(text=Text(query=query)))


class TestDelete:
    def test_the_lines_of_a_run_go(self, db: Backend) -> None:
        run, other = uuid4(), uuid4()
        logs.write(db, [line(flow_run_id=str(run)), line(flow_run_id=str(run), task_run_id=None)])
        logs.write(db, [line(flow_run_id=str(other)), line(flow_run_id=None)])
        assert logs.delete(db, run) == 2
        assert {log.flow_run_id for log in logs.find(db)} == {other, None}

    def test_a_run_without_lines_has_none(self, db: Backend) -> None:
        logs.write(db, [line()])
        assert logs.delete(db, uuid4()) == 0
        assert logs.count(db) == 1
