"""A small matter of conditions: a card of the town or of the country, by two registers.

The travel card of the guide is another one, and stands there.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import yaml
from pydantic import JsonValue

from exchange.resolver import Opening
from exchange.token_request import Caller
from schemas.directory import Scope
from schemas.validation import Pack, load_pack
from tests.exchange.newborn import MOTHER, OFFICIAL, Office, an_office, read

OpenCards: TypeAlias = Callable[..., AbstractAsyncContextManager[Office]]
"""Opens an office of cards: `a_card_office` with its place and databases given."""

CARD_OFFICE = Caller("card_office", frozenset({Scope.PORTAL}), frozenset({"card"}))
HOUSEHOLD: Mapping[str, JsonValue] = {
    "hukou": "URBAN",
    "birth_year": 1950,
    "region": "990101",
    "head": MOTHER,
    "nation": "01",
}

_PROVIDERS = """\
kind: providers
providers:
  - {id: ga, name: {zh: 公安局, en: Police}}
  - {id: jt, name: {zh: 交通局, en: Transport}}
"""

_REGISTERS = """\
household:
  provider: ga
  about: holder
  name: {zh: 户籍, en: Household}
  fields:
    hukou:
      name: {zh: 户口性质, en: Kind of household}
      concept: self.hukou
      json_schema: {enum: [URBAN, RURAL, null]}
    birth_year:
      name: {zh: 出生年份, en: Year of birth}
      concept: self.birth_year
      json_schema: {type: [integer, "null"]}
    region:
      name: {zh: 行政区划, en: Region}
      concept: self.region
      json_schema: {type: [string, "null"]}
    nation:
      name: {zh: 民族, en: Nation}
      concept: self.nation
      json_schema: {type: [string, "null"]}
    head:
      name: {zh: 户主, en: Head of the household}
      concept: head.id
      json_schema: {type: [string, "null"]}
rural_card:
  provider: jt
  about: holder
  name: {zh: 乡村卡, en: Card of the country}
  fields: {card_no: {name: {zh: 卡号, en: Number}, json_schema: {type: string}}}
urban_card:
  provider: jt
  about: holder
  name: {zh: 城市卡, en: Card of the town}
  fields: {card_no: {name: {zh: 卡号, en: Number}, json_schema: {type: string}}}
head:
  provider: ga
  about: head
  name: {zh: 户主住址, en: Where the head lives}
  fields: {street: {name: {zh: 街道, en: Street}, json_schema: {type: string}}}
"""
"""Each evidence type: who holds it, about whom, and what it tells."""

_REQUESTER = {
    "id": "card_office",
    "name": {"zh": "办卡处", "en": "Card office"},
    "scopes": ["portal"],
    "purposes": ["card"],
}

_MATTER = """\
kind: matter
id: card
version: 1
region: "990100"
name: {zh: 办卡, en: A card}
purposes: {card: {zh: 办卡, en: To issue a card}}
source_limit: P5D
roles:
  holder:
    name: {zh: 持卡人, en: Holder}
    kind: person
    required: true
    applicant: true
    facts:
      id: {name: {zh: 公民身份号码, en: Citizen id}, type: citizen_id, required: true}
  head: {name: {zh: 户主, en: Head}, kind: person, required: false, facts: {}}
questions:
  village: {name: {zh: 村名, en: Village}, type: text}
asks:
  household: {evidence_type: household@1, about: holder, mode: retrieve}
  rural_card: {evidence_type: rural_card@1, about: holder, mode: retrieve}
  urban_card: {evidence_type: urban_card@1, about: holder, mode: retrieve}
  head: {evidence_type: head@1, about: head, mode: retrieve}
requirements:
  household:
    name: {zh: 户籍, en: Household}
    steps: [apply]
    basis: {law: {zh: 法, en: Law}, article: "1"}
    lists:
      - all: [{ask: household, fields: [hukou, region, nation]}]
  rural:
    name: {zh: 村, en: Village}
    steps: [apply]
    basis: {law: {zh: 法, en: Law}, article: "1"}
    when: holder.hukou == 'RURAL'
    declare: village
  head:
    name: {zh: 户主住址, en: Where the head lives}
    steps: [apply]
    basis: {law: {zh: 法, en: Law}, article: "1"}
    lists:
      - all: [{ask: head, fields: [street]}]
  urban:
    name: {zh: 城市卡, en: Card of the town}
    steps: [apply]
    basis: {law: {zh: 法, en: Law}, article: "1"}
    when: holder.hukou == 'URBAN'
    lists:
      - all: [{ask: urban_card, fields: [card_no]}]
    supply: [not_held]
  card:
    name: {zh: 旧卡, en: The card held so far}
    steps: [apply]
    basis: {law: {zh: 法, en: Law}, article: "1"}
    lists:
      - when: holder.hukou == 'RURAL'
        all: [{ask: rural_card, fields: [card_no]}]
      - when: holder.hukou != 'RURAL'
        all: [{ask: urban_card, fields: [card_no]}]
  age:
    name: {zh: 年龄, en: Age}
    steps: [apply]
    basis: {law: {zh: 法, en: Law}, article: "1"}
    lists:
      - all: [{ask: household, fields: [birth_year]}]
    criterion: holder.birth_year <= 1961
    commitment:
      text: {zh: 承诺已满年龄, en: I promise that I am old enough}
      basis: {law: {zh: 法, en: Law}, article: "1"}
  local:
    name: {zh: 本市户籍, en: Of this city}
    steps: [apply]
    basis: {law: {zh: 法, en: Law}, article: "1"}
    derive: holder.region.startsWith('9901')
steps:
  apply: {name: {zh: 申请, en: Apply}, provider: jt}
papers: {}
visits: []
"""


@cache
def _read(supply: tuple[tuple[str, str], ...]) -> Pack:
    """Return the pack in which these requirements may be handed in, for reasons."""
    matter = yaml.safe_load(_MATTER)
    for name in {name for name, _ in supply}:
        reasons = [reason for of, reason in supply if of == name]
        matter["requirements"][name]["supply"] = reasons
    registers = yaml.safe_load(_REGISTERS).items()
    types = [_evidence_type(name, held) for name, held in registers]
    services = [_service(name, held) for name, held in registers]
    grants = [_grant(name, held) for name, held in registers]
    documents = {
        "evidence": {"kind": "evidence_types", "evidence_types": types},
        "services": {"kind": "services", "services": services},
        "grants": {"kind": "grants", "requesters": [_REQUESTER], "grants": grants},
        "card": matter,
    }
    written = {
        f"{name}.yaml": orjson.dumps(document).decode()
        for name, document in documents.items()
    }
    return load_pack({"providers.yaml": _PROVIDERS, **written})


def _evidence_type(name: str, held: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "version": 1,
        "name": held["name"],
        "modes": ["retrieve"],
        "keys": [[{"name": "id", "concept": "self.id"}]],
        "sharing": "conditional",
        "sensitivity": "ordinary",
        "max_age": "P1D",
        "fields": held["fields"],
    }


def _service(name: str, held: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"of_{name}",
        "provider": held["provider"],
        "evidence_type": f"{name}@1",
        "connector": "http",
        "coverage": {"regions": ["990100"]},
    }


def _grant(name: str, held: Mapping[str, Any]) -> dict[str, Any]:
    law = {"law": {"zh": "法", "en": "Law"}, "article": "1"}
    return {
        "id": f"may_{name}",
        "version": 1,
        "requester": "card_office",
        "evidence_type": f"{name}@1",
        "fields": list(held["fields"]),
        "modes": ["retrieve"],
        "matters": ["card"],
        "purposes": ["card"],
        "bases": {held["about"]: {"kind": "statutory_duty", "reference": law}},
        "valid_from": "2026-01-01T00:00:00+08:00",
        "valid_until": "2029-01-01T00:00:00+08:00",
    }


@asynccontextmanager
async def a_card_office(
    folder: Path, tables_url: str, vault_url: str, *supply: tuple[str, str]
) -> AsyncIterator[Office]:
    """Open an office of cards.

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
