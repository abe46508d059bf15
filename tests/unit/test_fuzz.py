"""Any text where SQL, a URL, a page's token, JSON or a stored value is read."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.fuzz_targets import TARGETS

# What each target's texts are made of, besides any characters.
PIECES: Final = {
    "rewrite": r"? ?? $1 ?1 :a @a ' '' " " ` [ ] ( ) ; -- /* */ $$ $a$ E' ' select a::b 1",
    "split": r"? ; ' " " $$ -- /* */ begin end atomic create trigger function select ( )",
    "url": "postgresql:// postgres:// sqlite:/// +asyncpg user : pa%20ss @ host [::1] :5432 , / db"
    " ? & = password sslmode=require % %00 # :memory:",
    "page_token": '[ ] " , 2030-01-01T00:00:00Z +00:00 00000000-0000-0000-0000-000000000001'
    r" WyIyMDMw null 1e999 \ud800 =",
    "json_text": r'{ } [ ] , : " \" \u0000 \ud83d \ude00 0 1 - + . e E 12345678901234567890 NaN'
    " Infinity true false null",
    "stored_text": "2026-01-01 T 00:00:00 .000000 Z +02:00 1970-01-01 - : . 0 1 9 e inf nan _ a f"
    r" 123e4567e89b12d3a456426614174000 \x",
    "given_text": "2026-01-01 T 00:00:00 .5 Z +02:00 -00:00 W01 24:00 - : { } urn:uuid: _"
    " 123e4567e89b12d3a456426614174000 12 ab",
    "search": r'" \ + - ! word a',
}


@pytest.mark.parametrize("target", TARGETS)
def test_no_text_is_too_odd(target: str) -> None:
    piece = st.sampled_from([*PIECES[target].split(), " ", "\n"])
    pieces = st.lists(piece | st.text(max_size=3), max_size=12)

    @given(pieces.map("".join) | st.text())
    @settings(deadline=None, max_examples=200)
    def feed(text: str) -> None:
        TARGETS[target](text)

    feed()
