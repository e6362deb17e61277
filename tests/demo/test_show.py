"""What a run shows: sums that add up, nothing cut off, and the same in the report."""

import io
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from exchange.demo.report import (
    FAILED,
    OPEN,
    SETTLED,
    Awaited,
    CaseReport,
    Count,
    Line,
    Proof,
    Report,
    tally,
)
from exchange.demo.show import Show
from schemas.outcome import OUTCOMES

WORDS = sorted(SETTLED | OPEN | FAILED)
HINT = "one_character_differs"


def a_line(outcome: str, detail: str = "", **more: str) -> Line:
    """Return a requirement with an outcome."""
    return Line(
        id="marriage",
        name="父母婚姻状况 Marriage of the parents, as it was registered",
        outcome=outcome,
        detail=detail,
        provider="mz",
        ms=61.0,
        fields=("CSYXZMBH", "XSE_XM", "relation_to_head"),
        **more,  # type: ignore[arg-type] # texts alone
    )


def a_case(*lines: Line) -> CaseReport:
    """Return a case of these requirements."""
    return CaseReport(
        *("near_match", lines, Count(25, 0), Count(4, 0), 268.0, 278.0, 113.0, lines)
    )


def shown(width: int, *lines: Line) -> str:
    """Return what is printed of a case on a terminal of this width."""
    written = io.StringIO()
    show = Show(Console(file=written, width=width))
    show.first(lines)
    show.lines(lines)
    show.case(a_case(*lines))
    return written.getvalue()


def test_every_outcome_stands_in_one_group() -> None:
    """Settled, open or failed: as the README has it."""
    assert len(OUTCOMES) == len(WORDS) == len(SETTLED) + len(OPEN) + len(FAILED)


@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_the_sum_counts_every_requirement_once(words: list[str]) -> None:
    """What does not apply is among the settled."""
    found = tally(map(a_line, words))

    assert found.total == len(words)
    assert found.not_applicable <= found.settled


def test_the_first_answer_adds_up() -> None:
    """Twenty are twenty, with those that do not apply and those that failed."""
    text = shown(
        120,
        *[a_line("retrieved")] * 11,
        a_line("not_applicable"),
        *[a_line("pending", "step n3")] * 7,
        a_line("conflict", HINT),
    )

    assert (
        "first answer: 20 requirements: 12 settled (1 not applicable), 7 open, 1 failed"
        in text
    )
    assert "7 pending step n3" in text


def test_papers_are_so_far_until_nothing_is_open() -> None:
    """More may still be asked for."""
    still_open = shown(120, a_line("retrieved"), a_line("pending", "chained"))
    over = shown(120, a_line("retrieved"), a_line("not_applicable"))

    assert "papers 25 → 0 so far   trips 4 → 0 so far" in still_open
    assert "papers 25 → 0   trips 4 → 0   " in over


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_hint_is_never_cut(width: int) -> None:
    """Its word stands whole in a row, however narrow the terminal."""
    text = shown(width, a_line("conflict", f"{HINT} father.id"), a_line("retrieved"))
    rows = [line for line in text.splitlines() if line.startswith("│")]

    assert HINT in text
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= width
    assert all(row.endswith("│") for row in rows), "the right of the table is cut off"


def test_the_report_has_what_the_screen_shows() -> None:
    """Claims, the proof, whom it waits for and why, and the hint."""
    waiting = Line(
        *("marriage", "", "conflict", "", "mz", 61.0, ()),
        hint=HINT,
        waits_for=Awaited("provider", "mz", "contest"),
    )
    report = Report(cases=[a_case(waiting, a_line("pending", reason="chained"))])
    report.check("it held", held=True, detail="all of it")
    report.proof = Proof(7, 9, 3, holds=True, witnesses=("audit",), cosigned=True)
    found: Any = orjson.loads(orjson.dumps(report.to_json()))
    (case,) = found["cases"]
    conflict, pending = case["requirements"]

    assert [{"text": "it held", "held": True, "detail": "all of it"}] == found["claims"]
    assert {"owner": "provider", "who": "mz", "action": "contest"} == conflict[
        "waits_for"
    ]
    assert (HINT, "chained") == (conflict["hint"], pending["reason"])
    assert case["first_answer"]["waiting"] == [conflict, pending]
    assert found["proof"] == {
        "record": 7,
        "size": 9,
        "hashes": 3,
        "holds": True,
        "witnesses": ["audit"],
        "cosigned": True,
    }
