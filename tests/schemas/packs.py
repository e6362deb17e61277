"""Packs for tests: a small one that is whole, and the ones that ship."""

from functools import cache
from pathlib import Path

from schemas.validation import Pack, load_pack

ROOT = Path(__file__).parents[2]

PROVIDERS = """\
kind: providers
providers:
  - {id: lib, name: {zh: 图书馆, en: Library}}
  - {id: ga, name: {zh: 公安局, en: Police}}
"""

EVIDENCE_TYPES = """\
kind: evidence_types
evidence_types:
  - id: residence
    version: 1
    name: {zh: 居住登记, en: Residence}
    modes: [retrieve]
    keys:
      - [{name: id, concept: self.id}]
    sharing: conditional
    sensitivity: ordinary
    max_age: P1D
    fields:
      region:
        name: {zh: 行政区划, en: Region}
        concept: self.region
        json_schema: {type: string, pattern: "^[0-9]{6}$"}
      landlord_id:
        name: {zh: 房东, en: Landlord}
        concept: landlord.id
        comparison_only: true
        json_schema: {type: string, maxLength: 18}
      floor:
        name: {zh: 楼层, en: Floor}
        json_schema: {type: integer}
"""

SERVICES = """\
kind: services
services:
  - id: ga_residence
    provider: ga
    evidence_type: residence@1
    connector: http
    coverage: {regions: ["990100"]}
"""

GRANTS = """\
kind: grants
requesters:
  - id: desk
    name: {zh: 服务台, en: Desk}
    scopes: [portal]
    purposes: [lending]
grants:
  - id: card_residence
    version: 1
    requester: desk
    evidence_type: residence@1
    modes: [retrieve]
    fields: [region, landlord_id]
    matters: [card]
    purposes: [lending]
    bases:
      reader:
        kind: statutory_duty
        reference: {law: {zh: 公共图书馆法, en: Public Library Law}, article: "33"}
    valid_from: "2026-01-01T00:00:00Z"
    valid_until: "2027-01-01T00:00:00Z"
"""

MATTER = """\
kind: matter
id: card
version: 1
region: "990100"
name: {zh: 借书证, en: Library card}
purposes: {lending: {zh: 借书, en: Lending}}
source_limit: P2D
roles:
  reader:
    name: {zh: 读者, en: Reader}
    kind: person
    required: true
    applicant: true
    facts:
      id: {name: {zh: 身份号码, en: Id}, type: citizen_id, required: true}
  owner: {name: {zh: 房东, en: Owner}, kind: person, required: false, facts: {}}
questions:
  lives_here:
    name: {zh: 是否住在本市, en: Do you live in this city?}
    type: boolean
asks:
  residence:
    evidence_type: residence@1
    about: reader
    mode: retrieve
    roles: {landlord: owner}
requirements:
  residence:
    name: {zh: 居住, en: Residence}
    steps: [issue]
    basis: {law: {zh: 公共图书馆法, en: Public Library Law}, article: "33"}
    when: lives_here
    lists:
      - all: [{ask: residence, fields: [region], compare: [landlord_id]}]
    criterion: "reader.region.startsWith('9901')"
    replaces: [{paper: lease, asked_by: [lib]}]
steps:
  issue: {name: {zh: 发证, en: Issue}, provider: lib}
papers:
  lease: {zh: 租赁合同, en: Lease}
visits:
  - {name: {zh: 前台, en: Desk}, steps: [issue]}
"""

DEPLOYMENT = """\
kind: deployment
services:
  ga_residence: {endpoint: "http://127.0.0.1:8101/lookups", timeout_ms: 900}
"""

SMALL = {
    "providers.yaml": PROVIDERS,
    "evidence.yaml": EVIDENCE_TYPES,
    "services.yaml": SERVICES,
    "grants.yaml": GRANTS,
    "card.yaml": MATTER,
    "deployment.yaml": DEPLOYMENT,
}
"""A whole pack of one requirement."""


@cache
def shipped(folder: str) -> Pack:
    """Return the pack of a folder of the project."""
    paths = sorted((ROOT / folder).glob("*.yaml"))
    return load_pack({path.name: path.read_text("utf-8") for path in paths})
