"""What the departments of the demo do themselves: the steps of a newborn's papers.

Errand performs no step; it looks up what a step made. So that the demo's cases come
to an end, each department's process here also performs its own step when the portal
files it. It believes the portal nothing: it takes the evidence that the case gave the
portal, verifies the signature of the department that said so, and reads only that.
Whom its own evidence is about it finds in its own log, under the look-up.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TypeAlias

import orjson
from pydantic import JsonValue

from connectors.department.log import read_log
from connectors.protocol import open_evidence
from exchange.demo.people import MALE, Relation, citizen_id
from exchange.demo.registers import (
    BANK,
    MIDWIFERY,
    PREMIUM_YUAN,
    card_number,
    first_doses,
    vaccination_card,
)
from schemas.canonical import b64url_decode
from schemas.directory import PublicKey
from schemas.errors import ConnectorFaultError

COUNTERS: Mapping[str, tuple[str, ...]] = {
    "n2": ("jk",),
    "n3": ("ga",),
    "n4": ("yb", "sw"),
    "n5": ("sw",),
    "n6": ("rs",),
    "n7": ("yb",),
    "n8": ("wj",),
}
"""Where each step is filed, by step; from an enrolment the tax bureau assesses what is
due. The first step, the birth certificate, was performed before the demo starts."""

_FIRST_SEQUENCE = 3
"""Where the sequences that police stations give to newborns start."""
_LAST_SEQUENCE = 999
_PARENT_OF_CHILD = frozenset(
    {Relation.HEAD.value, Relation.HUSBAND.value, Relation.WIFE.value}
)


class FilingError(Exception):
    """What was filed can't be acted on; the message holds no person's value."""


@dataclass(frozen=True, slots=True)
class Proved:
    """Fields that a department signed, by field name, with whom and about what."""

    provider: str
    evidence_type: str
    """Without its version."""
    lookup: str
    """The look-up that it answered."""
    fields: Mapping[str, JsonValue]


class Facts:
    """Everything that was proved for one filing."""

    def __init__(self, proved: Iterable[Proved], own_log: Path) -> None:
        """Take what was proved, and the log of the department that acts on it."""
        self._lookups: dict[str, str] = {}
        self._fields: dict[str, dict[str, JsonValue]] = {}
        for one in proved:  # one evidence may come in several presentations
            self._lookups[one.evidence_type] = one.lookup
            self._fields.setdefault(one.evidence_type, {}).update(one.fields)
        self._own_log = own_log

    def text(self, evidence_type: str, field: str) -> str:
        """Return a field that must be there, as text.

        Raises:
            FilingError: No evidence of this type with this field was filed.
        """
        value = self._fields.get(evidence_type, {}).get(field)
        if value is None:
            raise FilingError(f"field `{field}` of `{evidence_type}` was not proved")
        return str(value)

    def key(self, evidence_type: str, name: str) -> str:
        """Return what evidence of this very department was looked up by.

        Raises:
            FilingError: None was filed, or this department did not answer it.
        """
        lookup = self._lookups.get(evidence_type)
        for entry in read_log(self._own_log):
            if entry.lookup == lookup and entry.outcome == "answered":
                payload = b64url_decode(entry.lookup_jws.split(".")[1])
                return str(orjson.loads(payload)["keys"][name])
        raise FilingError(f"`{evidence_type}` does not answer a look-up made here")


@dataclass(frozen=True, slots=True)
class _Work:
    """What a step is performed with."""

    register: sqlite3.Connection
    facts: Facts
    today: date

    def birth_date(self) -> date:
        """Return the child's birth date, as the certificate says it."""
        return date.fromisoformat(self.facts.text("birth_certificate", "XSE_CSSJ")[:10])


def verify_filing(
    presentations: Sequence[str], requester: str, keys: Mapping[str, list[PublicKey]]
) -> tuple[Proved, ...]:
    """Return what presentations prove, each signed by the department it names.

    (1) The signature and the digests hold, under a pinned key of some department.
    (2) That department is the one that the evidence names.
    (3) It was given to the requester who files it.

    Raises:
        FilingError: Any of this does not hold for one of them.
    """
    return tuple(_verify(one, requester, keys) for one in presentations)


def _verify(
    presentation: str, requester: str, keys: Mapping[str, list[PublicKey]]
) -> Proved:
    everyone = [key for pinned in keys.values() for key in pinned]
    try:
        opened = open_evidence(presentation, everyone)  # (1)
        claims = opened.claims
        open_evidence(presentation, keys.get(claims.iss, []))  # (2)
    except ConnectorFaultError as error:
        raise FilingError(f"a presentation does not hold: {error}") from None
    if claims.aud != requester:  # (3)
        raise FilingError("a presentation was given to somebody else")
    kind = claims.evidence_type.partition("@")[0]
    fields = dict(opened.disclosed.values)
    return Proved(claims.iss, kind, claims.lookup, fields)


def perform(
    provider: str, step: str, register: Path, facts: Facts, today: date
) -> None:
    """Perform a department's part of a step in its register; twice does no more.

    Raises:
        FilingError: The department has no part in it, or a fact that it rests on is
            missing.
    """
    if (provider, step) not in _STEPS:
        raise FilingError("this department has no part in such a step")
    with closing(sqlite3.connect(register, timeout=10)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        _STEPS[provider, step](_Work(database, facts, today))


def _issue_vaccination_card(work: _Work) -> None:
    certificate = work.facts.text("birth_certificate", "CSYXZMBH")
    card = vaccination_card(certificate)
    work.register.execute(
        "INSERT OR IGNORE INTO t_jzz VALUES (?, ?, ?)",
        (card, certificate, work.today.isoformat()),
    )
    work.register.executemany(
        "INSERT OR IGNORE INTO t_jzjl VALUES (?, ?, ?, ?, ?)",
        ((card, *dose) for dose in first_doses(work.birth_date(), work.today)),
    )


def _register_birth(work: _Work) -> None:
    """Enter the child in the household that it joins, and give it an id."""
    certificate = work.facts.text("birth_certificate", "CSYXZMBH")
    done = "SELECT 1 FROM t_csdj WHERE cszmbh = ?"
    if work.register.execute(done, (certificate,)).fetchone():
        return
    household = work.facts.text("household", "household_no")
    row = work.register.execute(
        "SELECT xzqh, mzdm FROM t_hu JOIN t_czrk USING (hh) WHERE hh = ?"
        " ORDER BY yhzgx LIMIT 1",
        (household,),
    ).fetchone()
    if row is None:
        raise FilingError("this register has no such household")
    region, nation = row
    sex, born_on = work.facts.text("birth_certificate", "XSE_XBDM"), work.birth_date()
    newborn = next_id(work.register, region[:6], born_on, sex)
    name = work.facts.text("birth_certificate", "XSE_XM")
    relation = _relation(work.facts.text("household", "relation_to_head"), sex)
    work.register.execute(
        "INSERT INTO t_czrk VALUES (?, ?, ?, ?, ?, '0', NULL, ?, ?)",
        (newborn, name, sex, born_on.isoformat(), nation, household, relation),
    )
    work.register.execute(
        "INSERT INTO t_csdj VALUES (?, ?, ?)",
        (certificate, newborn, work.today.isoformat()),
    )


def _relation(of_parent: str, sex: str) -> Relation:
    """Return how the child stands to the head, from how its parent does."""
    if of_parent in _PARENT_OF_CHILD:
        return Relation.SON if sex == MALE else Relation.DAUGHTER
    return Relation.GRANDSON if sex == MALE else Relation.GRANDDAUGHTER


def next_id(database: sqlite3.Connection, region: str, born: date, sex: str) -> str:
    """Return the first free id of a region, day and sex.

    Raises:
        FilingError: There is none left.
    """
    taken = {
        row[0]
        for row in database.execute(
            "SELECT gmsfhm FROM t_czrk WHERE gmsfhm LIKE ?",
            (f"{region}{born:%Y%m%d}%",),
        )
    }
    first = _FIRST_SEQUENCE + (sex != MALE)
    for sequence in range(first, _LAST_SEQUENCE + 1, 2):
        if (newborn := citizen_id(region, born, sequence)) not in taken:
            return newborn
    raise FilingError("no sequence is left for this day")


def _enrol(work: _Work) -> None:
    newborn = work.facts.text("child_registration", "id")
    work.register.execute(
        "INSERT OR IGNORE INTO t_cbxx VALUES (?, '390', '1', ?, ?)",
        (newborn, newborn[:6], work.birth_date().isoformat()),
    )


def _assess_premium(work: _Work) -> None:
    newborn = work.facts.text("child_registration", "id")
    year = work.today.year
    work.register.execute(
        "INSERT OR IGNORE INTO t_yjfe VALUES (?, ?, ?, '0', ?)",
        (newborn, str(year), PREMIUM_YUAN, f"{year}-12-31"),
    )


def _take_payment(work: _Work) -> None:
    work.register.execute(
        "UPDATE t_yjfe SET jfzt = '1' WHERE sfzh = ?",
        (work.facts.key("premium", "id"),),
    )


def _make_social_card(work: _Work) -> None:
    newborn = work.facts.text("child_registration", "id")
    (last,) = work.register.execute("SELECT max(kh) FROM t_sbk").fetchone()
    work.register.execute(
        "INSERT OR IGNORE INTO t_sbk VALUES (?, ?, '0', ?, ?)",
        (newborn, card_number(int(last[3:]) + 1), BANK, work.today.isoformat()),
    )


def _settle_claim(work: _Work) -> None:
    work.register.execute(
        "UPDATE t_syfy SET jszt = '1' WHERE sfzh = ?",
        (work.facts.key("maternity_claim", "mother_id"),),
    )


def _open_parenting_file(work: _Work) -> None:
    certificate = work.facts.text("birth_certificate", "CSYXZMBH")
    work.register.execute(
        "INSERT OR IGNORE INTO t_yezd VALUES (?, ?, ?, ?)",
        (f"YE{certificate[1:]}", certificate, work.today.isoformat(), MIDWIFERY),
    )


_Perform: TypeAlias = Callable[[_Work], None]

_STEPS: Mapping[tuple[str, str], _Perform] = {
    ("jk", "n2"): _issue_vaccination_card,
    ("ga", "n3"): _register_birth,
    ("yb", "n4"): _enrol,
    ("sw", "n4"): _assess_premium,
    ("sw", "n5"): _take_payment,
    ("rs", "n6"): _make_social_card,
    ("yb", "n7"): _settle_claim,
    ("wj", "n8"): _open_parenting_file,
}
