"""What a publisher takes into the tree: new records, their leaves hashed again.

A publisher is a thread of a gateway, as a rule, and waits for the interpreter after
each piece of an answer that it reads. So on PostgreSQL the server looks through what
stands on its disks, and sends 32 bytes a record: the leaves themselves stay there.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from audit.merkle import HASH_SIZE, LEAF_PREFIX, leaf_hash
from audit.sql import Place
from audit.store import ACCEPTED, LogReader, attempts_of
from schemas.errors import VerificationError
from schemas.ids import CaseId, EventId


class Taken(NamedTuple):
    """Some adjacent records, as the tree takes them in."""

    hashes: list[bytes]
    """Of their leaves, in order; each was compared with the leaf that is stored."""
    begun: Mapping[EventId, CaseId]
    """The case of each look-up that they begin, and do not end."""
    ended: frozenset[EventId]
    """The look-ups that they end, and that records before them have begun."""


Take = Callable[[int, int], Taken]
"""Takes the records from one index up to, not including, another one.

Raises VerificationError where a record is missing, or its leaf is not what was hashed.
"""

_HASHED: Final = (
    "SELECT count(*), coalesce(string_agg(leaf_hash, '' ORDER BY seq), ''),"
    " min(seq) FILTER (WHERE leaf_hash <> sha256(? || leaf))"
    " FROM entry WHERE seq >= ? AND seq < ?"
)
_OPEN: Final = (
    "WITH part AS (SELECT event_id, case_ref, ends,"
    " ends IS NULL AND case_ref IS NOT NULL AND position(? IN leaf) > 0 AS begins"
    " FROM entry WHERE seq >= ? AND seq < ?)"
    " SELECT event_id, case_ref FROM part WHERE begins"
    " AND event_id NOT IN (SELECT ends FROM part WHERE ends IS NOT NULL)"
    " UNION ALL SELECT ends, NULL FROM part WHERE ends IS NOT NULL"
    " AND ends NOT IN (SELECT event_id FROM part WHERE begins)"
)


def taking(place: Place, reader: LogReader) -> Take:
    """Return what takes in the records of a log.

    Args:
        place: Where the log is kept.
        reader: Reads it; of the thread that takes.
    """
    return partial(_hashed_here if isinstance(place, Path) else _hashed_there, reader)


def _hashed_here(reader: LogReader, start: int, end: int) -> Taken:
    links = reader.links(start, end)
    hashes: list[bytes] = []
    for seq, _, leaf, stored, *_ in links:
        if seq != start + len(hashes):
            raise _missing(start + len(hashes))
        if leaf_hash(leaf) != stored:
            raise _another(seq)
        hashes.append(stored)
    if len(hashes) != end - start:
        raise _missing(start + len(hashes))
    begun, ended = attempts_of(links)
    left = {event: case for event, case in begun.items() if event not in ended}
    return Taken(hashes, left, ended - begun.keys())


def _hashed_there(reader: LogReader, start: int, end: int) -> Taken:
    [[count, joined, wrong]] = reader.sql.rows(_HASHED, (LEAF_PREFIX, start, end))
    if wrong is not None:
        raise _another(wrong)
    if count != end - start:
        there = "SELECT seq FROM entry WHERE seq >= ? AND seq < ?"
        found = {seq for (seq,) in reader.sql.rows(there, (start, end))}
        raise _missing(min(set(range(start, end)) - found))
    # What equals a hash that the server has made is as long as one.
    hashes = [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]
    rows = reader.sql.rows(_OPEN, (ACCEPTED, start, end))
    begun = {event: case for event, case in rows if case is not None}
    return Taken(hashes, begun, frozenset(ev for ev, case in rows if case is None))


def _missing(seq: int) -> VerificationError:
    return VerificationError(f"entry {seq} is missing")


def _another(seq: int) -> VerificationError:
    return VerificationError(f"entry {seq} has another leaf than its hash")
