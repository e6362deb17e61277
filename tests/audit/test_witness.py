"""The witness: the status of every request, and that it never goes back."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from audit.merkle import EMPTY_ROOT, consistency_proof, leaf_hash, tree_root
from audit.note import (
    COSIGNATURE,
    Checkpoint,
    Cosigner,
    Signer,
    b64,
    cosigned_at,
    open_note,
    parse_cosigner,
    parse_vkey,
)
from audit.witness import (
    BODY_LIMIT,
    SIZE_TYPE,
    Witness,
    origin_path,
    parse_submission,
    submission_text,
)
from schemas.errors import SettingsError, VerificationError
from tests.audit.test_merkle import reader
from tests.harness.witnesses import a_witness

LOG = Signer("log.example/1", b"l" * 32)
OTHER = Signer("log.example/2", b"o" * 32)
COSIGNER = Cosigner("w.example/witness", b"w" * 32)
LEAVES = [leaf_hash(bytes([n])) for n in range(40)]
FORK = [leaf_hash(b"fork" + bytes([n])) for n in range(40)]
NOW_S = 1_700_000_000


def head(size: int, leaves: list[bytes] | None = None) -> str:
    """Return a signed head of a tree."""
    root = tree_root(reader(leaves or LEAVES), size) if size else EMPTY_ROOT
    return LOG.sign(Checkpoint(LOG.name, size, root).text)


def asking(old: int, size: int, leaves: list[bytes] | None = None) -> bytes:
    """Return a request, with the proof that it needs."""
    read = reader(leaves or LEAVES)
    proof = consistency_proof(read, old, size) if 0 < old <= size else []
    text = submission_text(old, [b64(one) for one in proof], head(size, leaves))
    return text.encode()


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    """A witness of one log."""
    opened = Witness(tmp_path / "w.db", COSIGNER, {LOG.name: LOG.verifier})
    yield opened
    opened.close()


def test_a_log_that_grows_is_cosigned_at_each_size(witness: Witness) -> None:
    """From nothing on, the same size again, with a cosignature that verifies."""
    for old, size in ((0, 0), (0, 1), (1, 7), (7, 7), (7, 40)):
        reply = witness.add_checkpoint(asking(old, size), NOW_S + size)
        note = head(size) + reply.body
        opened = open_note(note.encode(), (LOG.verifier, COSIGNER.verifier))

        assert 200 == reply.status
        assert 2 == len(opened.verified)
        assert 72 == len(opened.verified[1].value)
        assert NOW_S + size == int.from_bytes(opened.verified[1].value[:8], "big")
        shown = witness.checkpoint(origin_path(LOG.name))
        assert note == shown


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (asking(0, 9), 409),
        (asking(3, 9), 409),
        (asking(7, 7), 409),
        (asking(5, 9), 200),
        (asking(5, 5), 200),
        (asking(5, 9, FORK), 422),
        (asking(5, 5, FORK), 422),
        (asking(5, 9).replace(b"\n", b"\n" + b64(bytes(32)).encode() + b"\n", 1), 422),
        (submission_text(5, [], head(9)).encode(), 422),
        (submission_text(6, [], head(5)).encode(), 400),
        (submission_text(5, [], OTHER.sign(head(9)[:-1] + "\n")).encode(), 400),
        (asking(5, 9).replace(b"log.example/1\n", b"log.example/2\n"), 404),
        (submission_text(5, [], OTHER.sign("log.example/1\n9\nAAAA\n")).encode(), 400),
        (
            submission_text(
                5, [], OTHER.sign(Checkpoint(LOG.name, 9, bytes(32)).text)
            ).encode(),
            403,
        ),
        (asking(5, 9).replace(b"\n9\n", b"\n8\n"), 403),
        (asking(5, 9).replace(b"old 5", b"old 05"), 400),
        (asking(5, 9).replace(b"old 5", b"old -5"), 400),
        (asking(5, 9).replace(b"old 5", b"old 5 "), 400),
        (asking(5, 9).replace(b"old 5", b"new 5"), 400),
        (asking(5, 9).replace(b"\n", b"\r\n"), 400),
        (asking(5, 9)[:20], 400),
        (b"", 400),
        (b"\xff" + asking(5, 9), 400),
        (b"old 5\n" + (b64(bytes(32)) + "\n").encode() * 64 + b"\n", 400),
        (b"old 5\nAAAA\n\n" + head(9).encode(), 400),
        (asking(5, 9) + b"x" * BODY_LIMIT, 400),
    ],
)
def test_each_request_gets_its_status(
    witness: Witness, body: bytes, status: int
) -> None:
    """And whatever is refused changes nothing."""
    witness.add_checkpoint(asking(0, 5), NOW_S)
    before = witness.checkpoint(origin_path(LOG.name))
    reply = witness.add_checkpoint(body, NOW_S + 1)
    after = witness.checkpoint(origin_path(LOG.name))

    assert status == reply.status
    assert (status == 200) == (before != after)
    if status == 409:
        assert ("5\n", SIZE_TYPE) == (reply.body, reply.media_type)


def test_a_first_head_comes_without_a_proof(witness: Witness) -> None:
    """What has nothing to be consistent with proves nothing."""
    proof = [b64(bytes(32))]
    text = submission_text(0, proof, head(5)).encode()
    empty = LOG.sign(Checkpoint(LOG.name, 0, bytes(32)).text)

    assert 422 == witness.add_checkpoint(text, NOW_S).status
    assert (
        422
        == witness.add_checkpoint(submission_text(0, [], empty).encode(), NOW_S).status
    )


def test_of_two_growths_at_once_none_is_rolled_back(witness: Witness) -> None:
    """Comparing and remembering are one step: of all that start from one size, one."""
    witness.add_checkpoint(asking(0, 1), NOW_S)
    ready, statuses = threading.Barrier(8), []

    def ask(size: int) -> None:
        ready.wait()
        statuses.append((witness.add_checkpoint(asking(1, size), NOW_S).status, size))

    threads = [threading.Thread(target=ask, args=(size,)) for size in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [won] = [size for status, size in statuses if status == 200]
    shown = witness.checkpoint(origin_path(LOG.name)) or ""

    assert 7 == sum(status == 409 for status, _ in statuses)
    assert str(won) == shown.split("\n")[1]


def test_two_processes_on_one_memory_do_not_roll_back(tmp_path: Path) -> None:
    """The comparison is made in the file's own transaction, not in the process."""
    file, logs = tmp_path / "w.db", {LOG.name: LOG.verifier}
    one, two = Witness(file, COSIGNER, logs), Witness(file, COSIGNER, logs)
    one.add_checkpoint(asking(0, 5), NOW_S)
    two.add_checkpoint(asking(5, 9), NOW_S)
    late = one.add_checkpoint(asking(5, 7), NOW_S)
    one.close()
    two.close()

    assert (409, "9\n") == (late.status, late.body)


def test_a_witness_remembers_when_it_is_opened_again(tmp_path: Path) -> None:
    """What it cosigned was durable before it said so."""
    logs = {LOG.name: LOG.verifier}
    one = Witness(tmp_path / "w.db", COSIGNER, logs)
    one.add_checkpoint(asking(0, 5), NOW_S)
    one.close()
    again = Witness(tmp_path / "w.db", COSIGNER, logs)
    reply = again.add_checkpoint(asking(0, 9), NOW_S)
    remembered = again.remembered()
    again.close()

    assert (409, "5\n") == (reply.status, reply.body)
    assert 1 == remembered


def test_what_a_witness_remembers_survives_a_power_loss(tmp_path: Path) -> None:
    """Each commit is flushed: else it might cosign a second history afterwards."""
    witness = Witness(tmp_path / "w.db", COSIGNER, {LOG.name: LOG.verifier})
    flushed = witness._store.execute("PRAGMA synchronous").fetchone()
    witness.close()

    assert (2,) == flushed


def test_a_witness_that_cannot_remember_does_not_cosign(tmp_path: Path) -> None:
    """An error of its file is an error, and the next request meets a sound state."""
    witness = Witness(tmp_path / "w.db", COSIGNER, {LOG.name: LOG.verifier})
    witness._store.execute("PRAGMA query_only=ON")
    with pytest.raises(Exception, match="readonly"):
        witness.add_checkpoint(asking(0, 5), NOW_S)
    witness._store.execute("PRAGMA query_only=OFF")
    reply = witness.add_checkpoint(asking(0, 5), NOW_S)
    witness.close()

    assert 200 == reply.status


def test_a_witness_takes_no_database_of_something_else(tmp_path: Path) -> None:
    """A register that was named by mistake gets no table of the witness."""
    with closing(sqlite3.connect(tmp_path / "register.db")) as register:
        register.execute("CREATE TABLE person (id TEXT)")
        with pytest.raises(SettingsError, match=r"`register\.db` is the database of s"):
            Witness(tmp_path / "register.db", COSIGNER, {LOG.name: LOG.verifier})
        tables = register.execute("SELECT name FROM sqlite_schema").fetchall()

    assert [("person",)] == tables


def test_a_witness_whose_memory_fails_says_so_and_cosigns_nothing(
    tmp_path: Path,
) -> None:
    """The gateway asks again; the operator reads why."""
    with (
        a_witness("w", tmp_path / "w.db", LOG.verifier) as served,
        httpx.Client(base_url=served.url, trust_env=False) as client,
    ):
        with closing(sqlite3.connect(tmp_path / "w.db")) as memory:
            memory.execute("DROP TABLE head")
        refused = client.post("/add-checkpoint", content=asking(0, 5))
        shown = client.get(f"/{origin_path(LOG.name)}")

    assert [503, 503] == [refused.status_code, shown.status_code]
    assert "can't use its memory" in refused.text


def test_the_service_speaks_the_protocol(tmp_path: Path) -> None:
    """Status, content types and bounds, over HTTP."""
    with (
        a_witness("w", tmp_path / "w.db", LOG.verifier) as served,
        httpx.Client(base_url=served.url, trust_env=False) as client,
    ):
        early = client.get(f"/{origin_path(LOG.name)}")
        cosigned = client.post("/add-checkpoint", content=asking(0, 5))
        behind = client.post("/add-checkpoint", content=asking(0, 9))
        shown = client.get(f"/{origin_path(LOG.name)}")
        large = client.post("/add-checkpoint", content=b"x" * (BODY_LIMIT + 1))
        wrong = client.get("/add-checkpoint")

    assert [404, 200, 409, 200, 413, 405] == [
        one.status_code for one in (early, cosigned, behind, shown, large, wrong)
    ]
    assert SIZE_TYPE == behind.headers["content-type"]
    assert "text/plain; charset=utf-8" == shown.headers["content-type"]
    assert cosigned.text in shown.text
    open_note(shown.content, (LOG.verifier, served.cosigner.verifier))


SUNLIGHT_VKEY = (
    "witness.example.org+b8a2cf20+BFLN3yikSfFkVAJtrnh/CiY3Zozkoy7clp+P7XB28qUN"
)
SUNLIGHT_NOTE = """\
rome2026h1.example.org
300
lCkHUpkmVBEms2r2T1K6Og69+wUuuN3MIEW1/ezu2v0=

\u2014 rome2026h1.example.org kVB1JgAAAZtxtEwABAMARzBFAiEAi+mTa2xjL1IdWpH82OeciGsGvwRA\
P+f1WkfKaSZCfFECIHoNPZ/Q3y6UNzvKOO9cuLr6V16vPNfhwhle9f6r5H/Z
\u2014 witness.example.org uKLPIAAAAABpVGeAhm2bOvKc3LaB9PFN1ruG19Y5yqslmcAAbhftnn1Zznmo\
0LXFZq4LGvqKqLX8jWlwLKasxEGTLIqAVusneCBmBw==
"""
"""SOURCE: FiloSottile/sunlight, cmd/skylight/testdata/witness (ISC)."""


def test_a_cosignature_of_another_program_verifies() -> None:
    """A frozen one that Sunlight's witness made; a changed one does not."""
    note = open_note(SUNLIGHT_NOTE.encode(), (parse_vkey(SUNLIGHT_VKEY),))
    changed = SUNLIGHT_NOTE.replace("\n300\n", "\n301\n").encode()

    assert 1_767_139_200 == cosigned_at(note.verified[0])
    with pytest.raises(VerificationError):
        open_note(changed, (parse_vkey(SUNLIGHT_VKEY),))


def test_the_time_is_part_of_what_is_cosigned() -> None:
    """Keys of type 4 are read, and another time is another signature."""
    vkey = COSIGNER.verifier.vkey
    line = COSIGNER.cosign(Checkpoint(LOG.name, 5, bytes(32)).text, NOW_S)
    late = COSIGNER.cosign(Checkpoint(LOG.name, 5, bytes(32)).text, NOW_S + 1)
    note = f"{Checkpoint(LOG.name, 5, bytes(32)).text}\n{line}".encode()
    mixed = late.split(" ")[2].strip()

    assert COSIGNATURE == parse_vkey(vkey).type
    assert 1 == len(open_note(note, (parse_vkey(vkey),)).verified)
    assert mixed not in line
    with pytest.raises(VerificationError):
        open_note(note.replace(b"\n5\n", b"\n6\n"), (parse_vkey(vkey),))


def test_a_cosigners_key_is_written_and_read() -> None:
    """A log's key is no witness's key, and a changed id is refused."""
    assert COSIGNER.verifier == parse_cosigner(COSIGNER.skey).verifier
    for line in (LOG.skey, COSIGNER.skey.replace("w.example", "v.example")):
        with pytest.raises(VerificationError):
            parse_cosigner(line)


def test_a_request_is_read_as_it_was_written() -> None:
    """Old size, proof and checkpoint."""
    submission = parse_submission(asking(5, 9))

    assert 5 == submission.old_size
    assert tuple(consistency_proof(reader(LEAVES), 5, 9)) == submission.proof
    assert head(9).encode() == submission.checkpoint
