"""A small matter of conditions: an old person's travel card, by two registers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from pydantic import JsonValue

from exchange.office import read_pack
from exchange.resolver import Opening
from exchange.token_request import Caller
from schemas.directory import Scope
from schemas.validation import Pack
from tests.exchange.newborn import MOTHER, OFFICIAL, Office, an_office, read

CARD_OFFICE = Caller("card_office", frozenset({Scope.PORTAL}), frozenset({"card"}))
HOUSEHOLD: Mapping[str, JsonValue] = {
    "hukou": "URBAN",
    "birth_year": 1950,
    "region": "990101",
    "head": MOTHER,
}
LAW = {"law": {"zh": "法", "en": "Law"}, "article": "1"}
NAMED = {"zh": "名", "en": "Name"}


def _field(concept: str | None, *types: str) -> dict[str, Any]:
    told = {} if concept is None else {"concept": concept}
    return {"name": NAMED, "json_schema": {"type": list(types)}, **told}


def _evidence_type(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "version": 1,
        "name": NAMED,
        "modes": ["retrieve"],
        "keys": [[{"name": "id", "concept": "self.id"}]],
        "sharing": "conditional",
        "sensitivity": "ordinary",
        "max_age": "P1D",
        "fields": fields,
    }


_TYPES = {
    "household": {
        "hukou": {
            "name": NAMED,
            "concept": "self.hukou",
            "json_schema": {"enum": ["URBAN", "RURAL", None]},
        },
        "birth_year": _field("self.birth_year", "integer", "null"),
        "region": _field("self.region", "string", "null"),
        "head": _field("head.id", "string", "null"),
    },
    "rural_card": {"card_no": _field(None, "string")},
    "urban_card": {"card_no": _field(None, "string")},
    "head": {"street": _field(None, "string")},
}


def _requirement(**how: object) -> dict[str, Any]:
    return {"name": NAMED, "steps": ["apply"], "basis": LAW, **how}


def _needs(ask: str, *fields: str, **condition: str) -> dict[str, Any]:
    return {**condition, "all": [{"ask": ask, "fields": [*fields]}]}


_REQUIREMENTS = {
    "household": _requirement(lists=[_needs("household", "hukou", "region")]),
    "rural": _requirement(when="holder.hukou == 'RURAL'", declare="village"),
    "head": _requirement(lists=[_needs("head", "street")]),
    "urban": _requirement(
        when="holder.hukou == 'URBAN'",
        lists=[_needs("urban_card", "card_no")],
        supply=["not_held"],
    ),
    "card": _requirement(
        lists=[
            _needs("rural_card", "card_no", when="holder.hukou == 'RURAL'"),
            _needs("urban_card", "card_no", when="holder.hukou != 'RURAL'"),
        ]
    ),
    "age": _requirement(
        lists=[_needs("household", "birth_year")],
        criterion="holder.birth_year <= 1961",
        commitment={"text": NAMED, "basis": LAW},
    ),
    "local": _requirement(derive="holder.region.startsWith('9901')"),
}


def _pack(supply: Mapping[str, list[str]]) -> dict[str, Any]:
    requirements = {
        name: {**one, "supply": supply[name]} if name in supply else one
        for name, one in _REQUIREMENTS.items()
    }
    grant = {
        "version": 1,
        "requester": "card_office",
        "modes": ["retrieve"],
        "matters": ["card"],
        "purposes": ["card"],
        "valid_from": "2026-01-01T00:00:00+08:00",
        "valid_until": "2029-01-01T00:00:00+08:00",
    }
    duty = {"kind": "statutory_duty", "reference": LAW}
    return {
        "providers": {
            "providers": [{"id": "ga", "name": NAMED}, {"id": "jt", "name": NAMED}]
        },
        "evidence_types": {
            "evidence_types": [_evidence_type(n, f) for n, f in _TYPES.items()]
        },
        "services": {
            "services": [
                {
                    "id": f"of_{name}",
                    "provider": "ga" if name in {"household", "head"} else "jt",
                    "evidence_type": f"{name}@1",
                    "connector": "http",
                    "coverage": {"regions": ["990100"]},
                }
                for name in _TYPES
            ]
        },
        "grants": {
            "requesters": [
                {
                    "id": "card_office",
                    "name": NAMED,
                    "scopes": ["portal"],
                    "purposes": ["card"],
                }
            ],
            "grants": [
                {
                    **grant,
                    "id": f"may_{name}",
                    "evidence_type": f"{name}@1",
                    "fields": [*fields],
                    "bases": {"head" if name == "head" else "holder": duty},
                }
                for name, fields in _TYPES.items()
            ],
        },
        "matter": {
            "id": "card",
            "version": 1,
            "region": "990100",
            "name": NAMED,
            "purposes": {"card": NAMED},
            "source_limit": "P5D",
            "roles": {
                "holder": {
                    "name": NAMED,
                    "kind": "person",
                    "required": True,
                    "applicant": True,
                    "facts": {
                        "id": {"name": NAMED, "type": "citizen_id", "required": True}
                    },
                },
                "head": {
                    "name": NAMED,
                    "kind": "person",
                    "required": False,
                    "facts": {},
                },
            },
            "questions": {"village": {"name": NAMED, "type": "text"}},
            "asks": {
                name: {
                    "evidence_type": f"{name}@1",
                    "about": "head" if name == "head" else "holder",
                    "mode": "retrieve",
                }
                for name in _TYPES
            },
            "requirements": requirements,
            "steps": {"apply": {"name": NAMED, "provider": "jt"}},
            "papers": {},
            "visits": [],
        },
    }


@cache
def _read(supply: tuple[tuple[str, str], ...]) -> Pack:
    reasons: dict[str, list[str]] = {}
    for name, reason in supply:
        reasons.setdefault(name, []).append(reason)
    with TemporaryDirectory() as folder:
        for kind, declared in _pack(reasons).items():
            assert isinstance(declared, dict)
            file = Path(folder) / f"{kind}.yaml"
            file.write_bytes(orjson.dumps({"kind": kind, **declared}))
        return read_pack((Path(folder),))


@asynccontextmanager
async def a_card_office(
    folder: Path, tables_url: str, vault_url: str, *supply: tuple[str, str]
) -> AsyncIterator[Office]:
    """Open an office of travel cards.

    Args:
        folder: Where it keeps its log.
        tables_url: The database of its tables.
        vault_url: The database of its vault.
        supply: Requirements that may be handed in, each with a reason for it.
    """
    pack = _read(supply)
    async with an_office(folder, tables_url, vault_url, pack=pack) as office:
        yield office


def hold(office: Office, **changed: JsonValue) -> None:
    """Put the holder's household into its register, with some fields changed."""
    office.departments.drop("household@1")
    office.departments.hold("household@1", {"id": MOTHER}, {**HOUSEHOLD, **changed})


async def apply(office: Office) -> dict[str, Any]:
    """Open the holder's case."""
    opening = Opening(
        caller=CARD_OFFICE,
        matter="card@1",
        purpose="card",
        actor=OFFICIAL,
        subjects={"holder": {"id": MOTHER}},
        answers={},
    )
    _, answer = await office.resolver.open(opening, 5.0, None)
    return read(answer)
