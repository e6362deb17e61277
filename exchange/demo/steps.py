"""What the departments of the demo do themselves: the steps of a newborn's papers.

Errand performs no step; it looks up what a step made. So that the demo's cases come
to an end, each department's process here also performs its own step when the portal
files it. It believes the portal nothing: it takes the evidence that the case gave the
portal, verifies the signature of the department that said so, and reads only that.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from connectors.protocol import open_evidence
from exchange.demo.population import MALE, Relation, citizen_id
from exchange.demo.registers import (
    BANK,
    MIDWIFERY,
    PREMIUM_YUAN,
    card_number,
    first_doses,
    vaccination_card,
)
from schemas.directory import PublicKey
from schemas.errors import ConnectorFaultError

_FIRST_SEQUENCE = 3
"""Where the sequences that police stations give to newborns start."""
_LAST_SEQUENCE = 999


class FilingError(Exception):
    """What was filed can't be acted on; the message holds no person's value."""


@dataclass(frozen=True, slots=True)
class Proved:
    """Fields that a department signed, by field name, with whom and about what."""

    provider: str
    evidence_type: str
    """Without its version."""
    fields: Mapping[str, JsonValue]


class Facts:
    """Everything that was proved for one filing."""

    def __init__(self, proved: Iterable[Proved]) -> None:
        self._fields = {
            (one.evidence_type, name): value
            for one in proved
            for name, value in one.fields.items()
        }

    def text(self, evidence_type: str, field: str) -> str:
        """Return a field that must be there, as text.

        Raises:
            FilingError: No evidence of this type with this field was filed.
        """
        value = self._fields.get((evidence_type, field))
        if value is None:
            raise FilingError(f"field `{field}` of `{evidence_type}` was not proved")
        return str(value)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a step is performed with."""

    register: sqlite3.Connection
    facts: Facts
    today: date


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
    fields = {name: shown.value for name, shown in opened.disclosures.items()}
    return Proved(claims.iss, kind, fields)


def perform(step: str, register: Path, facts: Facts, today: date) -> None:
    """Perform one step in the register of its department; twice does nothing more.

    Raises:
        FilingError: There is no such step, or a fact that it rests on is missing.
    """
    if step not in _STEPS:
        raise FilingError("there is no such step")
    with closing(sqlite3.connect(register, timeout=10)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        _STEPS[step](_Work(database, facts, today))


def _issue_vaccination_card(work: _Work) -> None:
    certificate = work.facts.text("birth_certificate", "CSYXZMBH")
    born_on = date.fromisoformat(work.facts.text("birth_certificate", "XSE_CSSJ")[:10])
    card = vaccination_card(certificate)
    work.register.execute(
        "INSERT OR IGNORE INTO t_jzz VALUES (?, ?, ?)",
        (card, certificate, work.today.isoformat()),
    )
    work.register.executemany(
        "INSERT OR IGNORE INTO t_jzjl VALUES (?, ?, ?, ?, ?)",
        ((card, *dose) for dose in first_doses(born_on, work.today)),
    )


def _register_birth(work: _Work) -> None:
    """Enter the child in its mother's household, and give it an id."""
    certificate = work.facts.text("birth_certificate", "CSYXZMBH")
    done = "SELECT 1 FROM t_csdj WHERE cszmbh = ?"
    if work.register.execute(done, (certificate,)).fetchone():
        return
    mother = work.facts.text("birth_certificate", "MQ_SFZJHM")
    home = work.register.execute(
        "SELECT hh, xzqh, mzdm FROM v_hj JOIN t_czrk USING (gmsfhm, hh)"
        " WHERE gmsfhm = ?",
        (mother,),
    ).fetchone()
    if home is None:
        raise FilingError("the mother is in no household of this register")
    household, region, nation = home
    sex = work.facts.text("birth_certificate", "XSE_XBDM")
    born_on = date.fromisoformat(work.facts.text("birth_certificate", "XSE_CSSJ")[:10])
    newborn = next_id(work.register, region[:6], born_on, sex)
    name = work.facts.text("birth_certificate", "XSE_XM")
    relation = Relation.SON if sex == MALE else Relation.DAUGHTER
    work.register.execute(
        "INSERT INTO t_czrk VALUES (?, ?, ?, ?, ?, '0', NULL, ?, ?)",
        (newborn, name, sex, born_on.isoformat(), nation, household, relation),
    )
    work.register.execute(
        "INSERT INTO t_csdj VALUES (?, ?, ?)",
        (certificate, newborn, work.today.isoformat()),
    )


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
    born_on = f"{newborn[6:10]}-{newborn[10:12]}-{newborn[12:14]}"
    work.register.execute(
        "INSERT OR IGNORE INTO t_cbxx VALUES (?, '390', '1', ?, ?)",
        (newborn, newborn[:6], born_on),
    )


def _assess_premium(work: _Work) -> None:
    newborn = work.facts.text("child_registration", "id")
    work.register.execute(
        "INSERT OR IGNORE INTO t_yjfe VALUES (?, ?, ?, '0', ?)",
        (newborn, str(work.today.year), PREMIUM_YUAN, f"{work.today.year}-12-31"),
    )


def _issue_social_card(work: _Work) -> None:
    newborn = work.facts.text("child_registration", "id")
    (cards,) = work.register.execute("SELECT count(*) FROM t_sbk").fetchone()
    work.register.execute(
        "INSERT OR IGNORE INTO t_sbk VALUES (?, ?, '0', ?, ?)",
        (newborn, card_number(900_000 + cards), BANK, work.today.isoformat()),
    )


def _settle_claim(work: _Work) -> None:
    certificate = work.facts.text("birth_certificate", "CSYXZMBH")
    work.register.execute(
        "INSERT OR IGNORE INTO t_syfy VALUES (?, ?, ?, ?, '1', NULL)",
        (
            f"SY{certificate[1:]}",
            work.facts.text("birth_certificate", "MQ_SFZJHM"),
            work.facts.text("birth_certificate", "XSE_CSSJ")[:10],
            3_300,
        ),
    )


def _open_parenting_file(work: _Work) -> None:
    certificate = work.facts.text("birth_certificate", "CSYXZMBH")
    work.register.execute(
        "INSERT OR IGNORE INTO t_yezd VALUES (?, ?, ?, ?)",
        (f"YE{certificate[1:]}", certificate, work.today.isoformat(), MIDWIFERY),
    )


_Perform: TypeAlias = Callable[[_Work], None]

_STEPS: Mapping[str, _Perform] = {
    "n2": _issue_vaccination_card,
    "n3": _register_birth,
    "n4": _enrol,
    "n5": _assess_premium,
    "n6": _issue_social_card,
    "n7": _settle_claim,
    "n8": _open_parenting_file,
}
