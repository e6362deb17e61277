"""The department's log: whoever touches it, it shows."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.department.log import (
    DepartmentLog,
    Head,
    NewEntry,
    parse_head,
    read_log,
    verify_log,
)
from schemas.errors import SettingsError, UnverifiableError, VerificationError
from tests.connectors.examples import NOW

COLUMNS = [
    "seq",
    "at",
    "gateway",
    "lookup",
    "evidence_type",
    "requester",
    "purpose",
    "outcome",
    "lookup_jws",
    "answer_digest",
    "hash",
]


def an_entry(number: int) -> NewEntry:
    """Return the entry of one look-up."""
    return NewEntry(
        at=NOW + timedelta(seconds=number),
        gateway="errand",
        lookup=f"lookup-{number}",
        evidence_type="marriage@1",
        requester="newborn_portal",
        purpose="newborn_registration",
        outcome="answered",
        lookup_jws="a.b.c",
        answer_digest="digest",
    )


def a_log(path: Path, entries: int) -> list[Head]:
    """Make a log with so many entries; return the head after each."""
    path.unlink(missing_ok=True)
    log, heads = DepartmentLog(path), []
    for number in range(entries):
        log.append(an_entry(number), take=True)
        heads.append(verify_log(path))
    log.close()
    return heads


def change(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the service's back."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def test_a_whole_log_verifies_through_every_head(tmp_path: Path) -> None:
    """A head that was noted at any time lies on the chain later."""
    path = tmp_path / "log.db"
    heads = a_log(path, 4)

    assert [1, 2, 3, 4] == [head.count for head in heads]
    assert [heads[-1]] * 4 == [verify_log(path, head) for head in heads]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=40,
    deadline=None,
)
@given(
    entry=st.integers(1, 4), column=st.sampled_from(COLUMNS), text=st.text(max_size=9)
)
def test_any_change_of_any_entry_shows(
    tmp_path: Path, entry: int, column: str, text: str
) -> None:
    """Each member of each entry is under the hash."""
    path = tmp_path / "log.db"
    a_log(path, 4)
    value: object = text
    if column == "seq":
        value = 9
    elif column == "hash":
        value = text.encode()
    change(path, f"UPDATE entries SET {column} = ? WHERE seq = ?", value, entry)  # noqa: S608 - of the list above

    with pytest.raises(VerificationError, match="not what it was"):
        verify_log(path)


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_an_entry_taken_out_shows(tmp_path: Path, seq: int) -> None:
    """A gap is seen, also when the numbers are closed up again."""
    path = tmp_path / "log.db"
    a_log(path, 4)
    change(path, "DELETE FROM entries WHERE seq = ?", seq)
    change(path, "UPDATE entries SET seq = seq - 1 WHERE seq > ?", seq)

    with pytest.raises(VerificationError, match=f"entry {seq}"):
        verify_log(path)


def test_a_cut_at_the_end_shows_to_who_kept_a_head(tmp_path: Path) -> None:
    """Without a head the shorter chain is whole; with one it is not."""
    path = tmp_path / "log.db"
    heads = a_log(path, 3)
    change(path, "DELETE FROM entries WHERE seq = 3")

    assert heads[1] == verify_log(path)
    with pytest.raises(VerificationError, match="kept"):
        verify_log(path, heads[2])


@given(count=st.integers(0, 10**18 - 1), digest=st.binary(min_size=32, max_size=32))
def test_a_head_is_read_as_it_was_written(count: int, digest: bytes) -> None:
    """What a person noted is the head that was printed."""
    head = Head(count, digest)

    assert head == parse_head(head.as_text())


@pytest.mark.parametrize("text", ["", "1", "1:ab", f"-1:{'a' * 64}", f"1:{'A' * 64}"])
def test_what_is_no_head_is_refused(text: str) -> None:
    """Nothing is compared with half of one."""
    with pytest.raises(ValueError, match="COUNT:HASH"):
        parse_head(text)


def test_a_page_that_was_overwritten_shows(tmp_path: Path) -> None:
    """SQLite itself finds it: the log is there, and is not what it was."""
    path = tmp_path / "log.db"
    a_log(path, 60)
    held = bytearray(path.read_bytes())
    held[3 * 4096 : 5 * 4096] = bytes([255]) * 8192
    path.write_bytes(held)
    with pytest.raises(VerificationError, match=r"log\.db"):
        verify_log(path)


def test_a_lookup_is_taken_once(tmp_path: Path) -> None:
    """The second entry that would take the same look-up is not written."""
    log = DepartmentLog(tmp_path / "log.db")
    taken = [log.append(an_entry(1), take=take) for take in (True, True, False)]
    log.close()

    assert [True, False, True] == taken
    assert 2 == verify_log(tmp_path / "log.db").count


def test_the_log_continues_where_it_ended(tmp_path: Path) -> None:
    """A restart adds to the chain and begins no other."""
    path = tmp_path / "log.db"
    (head,) = a_log(path, 1)
    log = DepartmentLog(path)
    log.append(an_entry(2), take=True)
    log.close()

    assert 2 == verify_log(path, head).count
    assert ["lookup-0", "lookup-2"] == [entry.lookup for entry in read_log(path)]


def test_what_is_no_log_is_named(tmp_path: Path) -> None:
    """A missing or foreign file is neither read nor written."""
    path = tmp_path / "other"
    with pytest.raises(UnverifiableError, match="other"):
        verify_log(path)
    path.write_bytes(b"nothing that SQLite knows" * 100)
    with pytest.raises(UnverifiableError, match="other"):
        verify_log(path)
    with pytest.raises(SettingsError, match="other"):
        DepartmentLog(path)


def test_a_database_with_another_purpose_stays_as_it_is(tmp_path: Path) -> None:
    """Whoever names a register where the log belongs loses nothing of it."""
    path = tmp_path / "register.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE entries (person_id TEXT)")
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=r"register\.db"):
        DepartmentLog(path)

    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def test_a_log_that_was_half_made_is_finished(tmp_path: Path) -> None:
    """A service that was killed at its first start starts again."""
    path = tmp_path / "log.db"
    a_log(path, 0)
    change(path, "DROP TABLE taken")
    log = DepartmentLog(path)
    took = log.append(an_entry(1), take=True)
    log.close()

    assert took
