"""One pass over a stored log's records: each held against all that stands beside it.

Everything is computed anew from the leaf: its hash, the check values of the private
columns and of the sealed sections, which sections there are, and what each of them
commits to where somebody opens them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from audit.leaves import Leaves, Seen
from audit.merkle import leaf_hash
from audit.record import Kind, Section, read_leaf
from audit.sealing import Sealer
from audit.sections import OpenedSection, guard, private_guard, section_names
from audit.store import Entry, LogReader
from schemas.canonical import Json
from schemas.errors import VerificationError

_CHUNK = 4_096
"""Records between two reports of progress."""
_ACCEPTED = Kind.REQUEST_ACCEPTED.value


class Opener(NamedTuple):
    """What opens sections."""

    sealer: Sealer
    erased: frozenset[str]
    """References of everybody who was erased: what speaks of them can't be opened."""


class Walk:
    """One pass over all records, with what it finds on the way."""

    def __init__(
        self,
        reader: LogReader,
        origin: str,
        opener: Opener | None,
        tally: Mapping[str, Json],
    ) -> None:
        """Begin, or go on from what an earlier run has counted."""
        self.reader = reader
        self._opener = opener
        self.size = 0
        """Records that were read, or had been by an earlier run."""
        self.leaves = Leaves(origin, cast("dict[str, int]", tally.get("kinds", {})))
        self.attempts = dict(cast("dict[str, str]", tally.get("attempts", {})))
        self.sections = cast("int", tally.get("sections", 0))
        self.opened = cast("int", tally.get("opened", 0))
        self.erased = cast("int", tally.get("erased", 0))

    def tally(self) -> Mapping[str, Json]:
        """Return what was counted, to go on from later."""
        return {
            "kinds": dict(self.leaves.kinds),
            "attempts": dict(self.attempts),
            "sections": self.sections,
            "opened": self.opened,
            "erased": self.erased,
        }

    def run(self, end: int, add: Callable[[list[bytes]], None]) -> Iterator[int]:
        """Read the records up to `end`, in order, and yield how far it is.

        Args:
            end: How many records there are, or have to be.
            add: Takes the hashes of their leaves.
        """
        while self.size < end:
            stop = min(end, self.size + _CHUNK)
            rows = self.reader.rows(self.size, stop)
            add(self._quickly(rows) or [self._entry(row) for row in rows])
            if self.size != stop:
                raise VerificationError(f"entry {self.size}: missing")
            yield stop

    def _quickly(self, rows: Sequence[tuple[Any, ...]]) -> list[bytes] | None:
        """Verify many records at once, all that `_entry` does for each.

        Returns:
            The hashes of their leaves; None where anything is not as plain as almost
            always, for `_entry` to say what.
        """
        if self._opener is not None:
            return None
        try:
            hashes = [leaf_hash(row[2]) for row in rows]
            checks = [
                (private_guard(digest, *row[4:9]), guard(digest, row[10]))
                for digest, row in zip(hashes, rows, strict=True)
            ]
            seen = self.leaves.see_plain([row[2] for row in rows])
            sections = [section_names(row[10]) for row in rows]
        except (VerificationError, TypeError, AttributeError):
            return None
        start = self.size
        if (
            seen is None
            or [row[0] for row in rows] != list(range(start, start + len(rows)))
            or [row[3] for row in rows] != hashes
            or [(row[9], row[11]) for row in rows] != checks
            or [row[1] for row in rows] != [one.event for one in seen]
            or sections != [one.sections for one in seen]
        ):
            return None
        self.leaves.count(seen)
        self.sections += sum(map(len, sections))
        for row, one in zip(rows, seen, strict=True):
            self._follow_attempt(one, row[4], row[8])
        self.size += len(rows)
        return hashes

    def _entry(self, row: tuple[Any, ...]) -> bytes:
        """Verify one record, and return the hash of its leaf."""
        if row[0] != self.size:
            raise VerificationError(f"entry {self.size}: missing")
        try:
            digest = leaf_hash(row[2])
            self._check(row, digest, self.leaves.see(row[2]))
        except (VerificationError, TypeError, AttributeError) as error:
            # A column of another type than was written is no better than a wrong one.
            raise VerificationError(f"entry {self.size}: {error}") from None
        self.size += 1
        return digest

    def _check(self, row: tuple[Any, ...], digest: bytes, seen: Seen) -> None:
        """Verify that all parts of a record belong to its leaf."""
        _, event, _, stored, case, matter, subjects, actor, ends, check, *rest = row
        sealed, sealed_check = rest
        if digest != stored:
            raise VerificationError("the leaf is not what was hashed")
        if seen.event != event:
            raise VerificationError("the leaf is of another event")
        if check != private_guard(digest, case, matter, subjects, actor, ends):
            raise VerificationError("the private columns are not what was written")
        if sealed_check != guard(digest, sealed):
            raise VerificationError("the sealed sections are not what was written")
        if section_names(sealed) != seen.sections:
            raise VerificationError("the sealed sections are not those of the leaf")
        self.sections += len(seen.sections)
        self._follow_attempt(seen, case, ends)
        if self._opener is not None:
            self._open(Entry(*row), self._opener)

    def _follow_attempt(self, seen: Seen, case: str | None, ends: str | None) -> None:
        """Keep the look-ups that have not ended, by what links their records."""
        if seen.kind == _ACCEPTED and case is not None:
            self.attempts[seen.event] = case
        elif ends is not None:
            self.attempts.pop(ends, None)

    def _open(self, entry: Entry, opener: Opener) -> None:
        """Open every section of a record, and compare it with its commitment."""
        if not opener.erased.isdisjoint(entry.subject_refs.split()):
            self.erased += len(section_names(entry.sealed))
            return
        opened = opener.sealer.open_sections(
            entry.event_id,
            entry.subject_refs,
            entry.sealed,
            read_leaf(entry.leaf).commitments,
        )
        self.opened += len(opened)
        _compare_matter(entry, opened.get(Section.MATTER))


def _compare_matter(entry: Entry, section: OpenedSection | None) -> None:
    """Verify that an entry's case and matter are those that its leaf commits to."""
    value = section.value if section is not None else None
    if not isinstance(value, dict) or "matter" not in value:
        return
    if value["case"] != entry.case_ref or value["matter"] != entry.matter:
        raise VerificationError("the private columns are not those of the section")
