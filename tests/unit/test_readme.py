"""Every Python snippet of the documents runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
# What it shows are files of servers and programs: tests/contract/test_embedding.py runs them.
DOCUMENTS.remove("docs/embedding.md")
SNIPPETS = [
    pytest.param(snippet, id=f"{document}-{number}")
    for document in DOCUMENTS
    for number, snippet in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(), re.M | re.S), 1
    )
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_readme_has_snippets() -> None:
    assert len(SNIPPETS) >= 5
