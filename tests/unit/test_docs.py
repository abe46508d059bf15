"""What the documents refer to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_test_that_is_named_is_there(document: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", document.read_text()):
        assert (f"def {name}(" if name else "") in (ROOT / file).read_text(), f"{file}::{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_leads_to_a_file(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_every_difference_names_its_test() -> None:
    text = (ROOT / "docs" / "differences.md").read_text()
    entries = re.split(r"^\*\*", text, flags=re.M)[1:]
    assert len(entries) >= 8
    for entry in entries:
        assert "::test_" in entry, entry


def test_each_index_is_accounted_for() -> None:
    """docs/schema.md names the indexes of the two schemas, and no others."""
    text = (ROOT / "docs" / "schema.md").read_text()
    rows = re.findall(r"^\| `(\w+)`(?: \((\w+)\))? \|", text, flags=re.M)
    for engine, name in (("sqlite", "SQLite"), ("postgres", "PostgreSQL")):
        schema = (ROOT / "prefect_db" / "schema" / f"{engine}.sql").read_text()
        there = set(re.findall(r"^CREATE (?:UNIQUE )?INDEX (\w+)", schema, flags=re.M))
        there |= set(re.findall(r"CONSTRAINT (pk_flow_run_tag)", schema))
        assert {index for index, only in rows if only in ("", name)} == there


def test_every_promise_names_its_test() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "promise |" not in line]
    assert len(rows) >= 40
    for row in rows:
        assert "::test_" in row, row
