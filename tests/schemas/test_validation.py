"""Packs: what is taken, and that every wrong place is named by file, line and path."""

import re
from datetime import timedelta
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.canonical import b64url, canonical, sha256_b64url
from schemas.errors import PackError, VerificationError
from schemas.validation import load_pack
from tests.schemas.packs import ROOT, SMALL
from tests.schemas.publish import published

X = b64url(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
THUMBPRINT = sha256_b64url(canonical({"crv": "Ed25519", "kty": "OKP", "x": X}))


def a_key(thumbprint: str = THUMBPRINT, **jwk: str) -> str:
    """Return a pinned key in YAML."""
    parts = {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": X, **jwk}
    inside = ", ".join(f"{name}: {value}" for name, value in parts.items())
    return (
        f"{{jwk: {{{inside}}}, thumbprint: {thumbprint},"
        ' valid_from: "2026-01-01T00:00:00Z"}'
    )


def broken(file: str, old: str, new: str) -> tuple[str, ...]:
    """Load the small pack with one file changed, and return the wrong places."""
    assert old in SMALL[file], "the test changes nothing"
    with pytest.raises(PackError) as caught:
        load_pack(SMALL | {file: SMALL[file].replace(old, new, 1)})
    return caught.value.places


def test_a_whole_pack_is_loaded() -> None:
    """Everything is found by its id, and the deployment has been added."""
    pack = load_pack(SMALL)
    service = pack.services["ga_residence"]

    assert ["card@1"] == list(pack.matters)
    assert timedelta(days=1) == pack.evidence_types["residence@1"].max_age
    assert ("http://127.0.0.1:8101/lookups", 900, 32) == (
        service.endpoint,
        service.timeout_ms,
        service.concurrency,
    )
    assert pack.program("card@1", "lives_here").evaluate({"lives_here": True}) is True


def test_a_pack_of_the_same_content_has_the_same_digest() -> None:
    """Names of files and the form of the YAML do not count, what is said does."""
    renamed = {f"x/{name}": text + "\n# end\n" for name, text in SMALL.items()}
    other = SMALL | {"card.yaml": SMALL["card.yaml"].replace("P2D", "P3D")}

    assert load_pack(SMALL).digest == load_pack(renamed).digest
    assert load_pack(SMALL).digest != load_pack(other).digest


LISTS = """\
    lists:
      - all: [{ask: residence, fields: [region], compare: [landlord_id]}]
"""

LINE = "must be one line that begins with a visible sign and has no hidden one"
DURATION = r"must be a duration in whole numbers \(ISO 8601\), such as `P5D` for"
PROMISE = """\
    commitment:
      text: {{zh: "{zh}", en: I promise.}}
      basis: {{law: {{zh: 法, en: Law}}, article: "1"}}
"""

BROKEN: list[tuple[str, str, str, str]] = [
    # --- YAML
    ("card.yaml", "version: 1", "version: [", "card.yaml:4: : expected|did not find"),
    ("card.yaml", "version: 1", "version: 1\nversion: 2", "card.yaml:4: /version: `v"),
    ("card.yaml", "name: {zh: 读者", "name: &a {zh: 读者", "card.yaml:10: .*anchors"),
    ("card.yaml", "version: 1", "version: !!python/int 1", "card.yaml:3: .*tags are"),
    ("card.yaml", "papers:", "---\npapers:", "card.yaml:39: : a second document"),
    ("card.yaml", "version: 1", "version: \x07", "card.yaml:1: : not YAML|control"),
    ("card.yaml", "P2D", "[" * 30 + "]" * 30, "nested deeper than 24"),
    ("card.yaml", "P2D", "x" * (1 << 20), "card.yaml:1: : longer than"),
    ("card.yaml", "version: 1", "version: 1e99", "a number too large"),
    ("card.yaml", "kind: matter", "kind: matters", "card.yaml:1: /kind: must be one"),
    ("card.yaml", SMALL["card.yaml"], "", "card.yaml:1: /kind: must be one of"),
    ("card.yaml", SMALL["card.yaml"], "[a]", "card.yaml:1: /kind: must be one of"),
    # --- JSON Schema
    ("card.yaml", "source_limit", "sauce_limit", "card.yaml:7: /sauce_limit: `sauce"),
    ("card.yaml", "source_limit: P2D\n", "", "card.yaml:1: : `source_limit` missing"),
    ("card.yaml", "en: Reader}", "fr: Lecteur}", "card.yaml:10: /roles/reader/name"),
    ("card.yaml", '"990100"', "990100", "card.yaml:4: /region: a number .quote it"),
    ("card.yaml", "{lending: {zh: 借书, en: Lending}}", "{}", "card.yaml:6: /purposes"),
    ("card.yaml", ", en: Lending}", "}", "card.yaml:6: /purposes/lending"),
    ("card.yaml", "type: boolean", "type: bool", "card.yaml:20: /questions/lives_her"),
    ("card.yaml", "lives_here:", "Lives:", "card.yaml:18: /questions/Lives: the key"),
    ("card.yaml", "when: lives_here", "when: 1", "card.yaml:32: /requirements/residen"),
    ("card.yaml", "version: 1", "version: 0", "card.yaml:3: /version"),
    ("card.yaml", "P2D", "2 days", f"card.yaml:7: /source_limit: {DURATION}"),
    ("card.yaml", "P2D", "P2W3D", f"card.yaml:7: /source_limit: {DURATION}"),
    ("card.yaml", "P2D", '"P2D\\n"', f"card.yaml:7: /source_limit: {DURATION}"),
    ("evidence.yaml", "P1D", "12:00:00", f"/evidence_types/0/max_age: {DURATION}"),
    ("grants.yaml", "    valid_from:",
     "    quota: {lookups: 9, per: 1 day}\n    valid_from:",
     f"/grants/0/quota/per: {DURATION}"),
    ("grants.yaml", "01-01T00:00:00Z", "01-01T00:00:00", "grants.yaml:20: .*timezone"),
    ("grants.yaml", '"2027-01-01T00:00:00Z"', '"9999-12-31T23:00:00-08:00"',
     "grants.yaml:21: /grants/0/valid_until: .*1 to 9999"),
    ("services.yaml", "residence@1", "residence", "services.yaml:5: /services/0/evid"),
    ("card.yaml", "when: lives_here", f"when: {'lives_here && ' * 200}lives_here",
     "card.yaml:32: .*/when: has 2810 characters, and must have at most 1000$"),
    ("card.yaml", "steps: [issue]\n    b", "steps: []\n    b",
     "/requirements/residence/steps: has 0 members, and must have at least 1$"),
    ("card.yaml", "version: 1", "version: 1000000",
     "/version: `1000000`, and must be at most 999999$"),
    ("card.yaml", "zh: 读者", "zh: ''", f"card.yaml:10: /roles/reader/name/zh: {LINE}"),
    ("card.yaml", "en: Reader", "en: '  '", f"/roles/reader/name/en: {LINE}"),
    ("card.yaml", "zh: 读者", "zh: '\u3000'", f"/roles/reader/name/zh: {LINE}"),
    ("card.yaml", "zh: 读者", r'zh: "读\u0007者"', f"/roles/reader/name/zh: {LINE}"),
    ("card.yaml", "en: Reader", r'en: "Read\ner"', f"/roles/reader/name/en: {LINE}"),
    ("card.yaml", "en: Reader", r'en: "Reader\n"', f"/roles/reader/name/en: {LINE}"),
    ("card.yaml", "en: Reader", r'en: "\u202eredaeR"', f"/reader/name/en: {LINE}"),
    ("card.yaml", "en: Lending}", "en: ' '}", f"/purposes/lending/en: {LINE}"),
    ("card.yaml", "en: Lease", "en: ' '", f"card.yaml:40: /papers/lease/en: {LINE}"),
    ("card.yaml", 'article: "33"', 'article: ""', f"/basis/article: {LINE}"),
    ("grants.yaml", 'article: "33"', "article: ' '", f"/reference/article: {LINE}"),
    ("card.yaml", LISTS, LISTS + PROMISE.format(zh=r"\n"),
     "/residence/commitment/text/zh: must be a text that begins with a visible sign"),
    # --- across the directory
    ("services.yaml", "provider: ga", "provider: gb", "services.yaml:4: /services/0/p"),
    ("services.yaml", "@1", "@2", "services.yaml:5: .*no evidence type `residence@2`"),
    ("services.yaml", '["990100"]', "[]",
     "services.yaml:7: /services/0/coverage/regions: has 0 members, and must have"),
    ("providers.yaml", "id: lib", "id: ga", "providers.yaml:4: .*declared already, at"),
    ("grants.yaml", "requester: desk", "requester: dusk", "grants.yaml:10: .*`dusk`"),
    ("grants.yaml", "fields: [region,", "fields: [regio,", "/grants/0/fields/0: "),
    ("grants.yaml", "modes: [retrieve]", "modes: [verify]", "/grants/0/modes/0: "),
    ("grants.yaml", "matters: [card]", "matters: [cart]", "/grants/0/matters/0: "),
    ("grants.yaml", "[lending]\n    bases", "[x]\n    bases", "/grants/0/purposes/0"),
    ("grants.yaml", "      reader:", "      writer:", "/grants/0/bases/writer: no m"),
    ("grants.yaml", "kind: statutory_duty", "kind: mandate",
     "grants.yaml:18: /grants/0/bases/reader/kind: nothing is permitted on `mandate`"),
    ("grants.yaml", "kind: statutory_duty", "kind: emergency",
     "/reader/kind: nothing is permitted on `emergency` yet: state another basis"),
    ("grants.yaml", "2027-01-01", "2025-01-01", "/grants/0/valid_until: must be lat"),
    ("grants.yaml", "[region, landlord_id]", "[]", "/grants/0/fields: has 0 members"),
    ("grants.yaml", "modes: [retrieve]", "modes: []", "/grants/0/modes: has 0 members"),
    ("grants.yaml", "scopes: [portal]", "scopes: []", "/requesters/0/scopes: has 0 me"),
    ("grants.yaml", "matters: [card]", "matters: []", "/grants/0/matters: has 0 memb"),
    ("card.yaml", "    roles: {landlord", "    concerns: [owner]\n    roles: {landlord",
     "grants.yaml:16: /grants/0/bases: allows nothing in `card`: `owner` missing$"),
    ("card.yaml", "evidence_type: residence@1", "evidence_type: lease@1",
     "/grants/0/matters/0: `card` never asks for `residence@1`"),
    ("card.yaml", "{lending: {zh: 借书", "{reading: {zh: 借书",
     "/grants/0/matters/0: `card` has none of this grant's purposes"),
    # --- what is there twice
    ("grants.yaml", "[region, landlord_id]", "[region, floor, region]",
     "grants.yaml:13: /grants/0/fields/2: is there twice: .* /grants/0/fields/0$"),
    ("grants.yaml", "[retrieve]", "[retrieve, retrieve]", "/modes/1: is there twice"),
    ("grants.yaml", "matters: [card]", "matters: [card, card]", "/matters/1: is there"),
    ("grants.yaml", "[portal]", "[portal, portal]", "/requesters/0/scopes/1: is there"),
    ("grants.yaml", "[lending]\n    b", "[lending, lending]\n    b", "/purposes/1: is"),
    ("services.yaml", '["990100"]', '["990100", "990100"]', "/regions/1: is there"),
    ("evidence.yaml", "[retrieve]", "[retrieve, retrieve]", "/0/modes/1: is there"),
    ("evidence.yaml", "concept: self.id}]",
     "concept: self.id}]\n      - [{concept: self.id, name: id}]", "/keys/1: is there"),
    ("card.yaml", "fields: [region]", "fields: [region, region]", "/fields/1: is the"),
    ("card.yaml", "[landlord_id]", "[landlord_id, landlord_id]", "/compare/1: is ther"),
    ("card.yaml", "steps: [issue]\n    b", "steps: [issue, issue]\n    b",
     "/residence/steps/1: is there twice"),
    ("card.yaml", "Desk}, steps: [issue]", "Desk}, steps: [issue, issue]",
     "/visits/0/steps/1: is there twice"),
    ("card.yaml", "[lib]", "[lib, lib]", "/replaces/0/asked_by/1: is there twice"),
    ("card.yaml", "replaces:", "supply: [disputed, disputed]\n    replaces:",
     "/residence/supply/1: is there twice"),
    ("card.yaml", "provider: lib", "provider: lib, after: [a, a]", "/after/1: is the"),
    ("card.yaml", LISTS, LISTS + LISTS.replace("    lists:\n", ""),
     "/residence/lists/1: is there twice"),
    ("card.yaml", "all: [", "all: [{ask: residence, fields: [floor]}, ",
     "/lists/0/all/1/ask: is above already: name all its fields there"),
    ("card.yaml", "replaces: [", "replaces: [{paper: lease, asked_by: [ga]}, ",
     "/replaces/1/paper: is above already: name all who took it"),
    ("card.yaml", "    roles: {land", "    concerns: [owner, owner]\n    roles: {land",
     "/asks/residence/concerns/1: is there twice"),
    ("card.yaml", "    roles: {land", "    concerns: [reader]\n    roles: {land",
     "/asks/residence/concerns/0: it is about this role already"),
    # --- evidence types
    ("evidence.yaml", "modes: [retrieve]", "modes: []", "/0/modes: has 0 members"),
    ("evidence.yaml", "P1D", "P0D", "/0/max_age: must be longer"),
    ("evidence.yaml", "P1D", "P36526D",
     "evidence.yaml:11: /evidence_types/0/max_age: must be no longer than 36525 days"),
    ("evidence.yaml", "P1D", "P9999999999D", "yaml:11: /evidence_types/0/max_age: "),
    ("evidence.yaml", "[{name: id, concept: self.id}]", "[]", "/0/keys/0: has 0 mem"),
    ("evidence.yaml", "{type: integer}", "{type: integr}", "/floor/json_schema/type"),
    ("evidence.yaml", "{type: integer}", "{minimum: 1}", "`type`, `enum` or `const`"),
    ("evidence.yaml", "{type: integer}", "{$ref: 'http://x/'}", "references are not"),
    ("evidence.yaml", "{type: integer}", "{type: array, items: {$ref: '#'}}",
     r"/floor/json_schema/items/\$ref: references are not followed"),
    ("evidence.yaml", "{type: integer}", "{$defs: {a: {}}, type: integer}",
     r"/floor/json_schema/\$defs: references are not followed"),
    ("evidence.yaml", "{type: integer}",
     "{$schema: 'https://json-schema.org/draft/2020-12/schema', type: integer}",
     r"/floor/json_schema/\$schema: every schema here is of JSON Schema 2020-12"),
    ("evidence.yaml", 'pattern: "^[0-9]{6}$"', 'pattern: "("', "json_schema/pattern: "),
    ("evidence.yaml", "{type: integer}", "{type: object, patternProperties: {'(': {}}}",
     "/floor/json_schema/patternProperties: "),
    ("evidence.yaml", 'pattern: "^[0-9]{6}$"', 'pattern: "(?=1)1"',
     "/region/json_schema/pattern: can't be compiled: [^\n]*$"),
    ("evidence.yaml", "{type: integer}", r"{type: array, items: {pattern: '\p{Han}('}}",
     "/floor/json_schema/items/pattern: "),
    ("evidence.yaml", "type: string, maxLength: 18", "type: array", "a concept's val"),
    ("evidence.yaml", "[{name: id,", "[{name: id, concept: self.no}, {name: id,", "tw"),
    ("evidence.yaml", "{type: integer}", "{type: integer, minimum: 6, maximum: 5}",
     "/floor/json_schema/minimum: nothing can fulfil it and `maximum`"),
    ("evidence.yaml", "{type: integer}",
     "{type: integer, minimum: 5, exclusiveMaximum: 5}", "and `exclusiveMaximum`"),
    ("evidence.yaml", "{type: integer}", "{enum: [1, A], type: integer}",
     "/floor/json_schema/enum/1: is not of the schema's own `type`"),
    ("evidence.yaml", "{type: integer}", "{type: string, format: datum}",
     "/floor/json_schema/format: no format"),
    ("evidence.yaml", "{type: integer}", "{type: string, maxlength: 5}",
     "/floor/json_schema/maxlength: no keyword"),
    ("evidence.yaml", "{type: integer}",
     "{type: object, properties: {type: {anyOf: [{type: string, maxlength: 5}]}}}",
     "/floor/json_schema/properties/type/anyOf/0/maxlength: no keyword"),
    # --- the matter
    ("card.yaml", "applicant: true", "applicant: false", "card.yaml:8: /roles: exactl"),
    ("card.yaml", "required: true\n    app", "required: false\n    app", "applicant i"),
    ("card.yaml", "  owner:", "  self:", "/roles/self: `self` is for evidence types"),
    ("card.yaml", "lives_here:", "reader:", "card.yaml:18: /questions/reader: a role"),
    ("card.yaml", "about: reader", "about: writer", "/asks/residence/about: no role"),
    ("card.yaml", "mode: retrieve", "mode: verify", "/asks/residence/mode: "),
    ("card.yaml", "landlord: owner", "tenant: owner", "does not speak of `tenant`"),
    ("card.yaml", "    roles: {landlord: owner}\n", "", "speaks of `landlord`: which"),
    ("card.yaml", "landlord: owner", "landlord: boss", "no role `boss` is declared"),
    ("card.yaml", "evidence_type: residence@1", "evidence_type: lease@1", "`lease@1`"),
    ("card.yaml", "about: reader", "about: reader\n    region: reader.town", "no conc"),
    ("card.yaml", "about: reader", "about: owner", "no set of its keys can ever"),
    ("card.yaml", "about: reader", "about: reader\n    region: owner.id",
     "card.yaml:22: /asks/residence: it takes `owner.id`, which nothing here tells"),
    ("card.yaml", "about: reader", "about: reader\n    output_of: n9", "no step `n9`"),
    ("card.yaml", "when: lives_here", "when: lives_her", "card.yaml:32: .*/when: at c"),
    ("card.yaml", "when: lives_here", "when: size('a') > 1", "`size` counts bytes"),
    ("card.yaml", "when: lives_here\n", "when: 'true'\n", "lives_here: no requirement"),
    ("card.yaml", "when: lives_here", "when: lives_here\n    declare: lives_here", "e"),
    ("card.yaml", LISTS, "    declare: lives_here\n", "no evidence to judge"),
    ("card.yaml", "fields: [region]", "fields: [floor]", "nothing here fetches `reade"),
    ("card.yaml", "fields: [region]", "fields: [landlord_id]", "never passed on"),
    ("card.yaml", "fields: [region]", "fields: [regio]", "/fields/0: `residence@1` ha"),
    ("card.yaml", "compare: [landlord_id]", "compare: [floor]", "no concept to compar"),
    ("card.yaml", "ask: residence, f", "ask: resident, f", "no ask `resident`"),
    ("card.yaml", "steps: [issue]\n    b", "steps: [print]\n    b", "no step `print`"),
    ("card.yaml", "paper: lease", "paper: deed", "no paper `deed`"),
    ("card.yaml", "asked_by: [lib]", "asked_by: [bib]", "no provider `bib`"),
    ("card.yaml", "provider: lib", "provider: bib", "/steps/issue/provider: "),
    ("card.yaml", "provider: lib", "provider: lib, after: [issue]", "waits for itself"),
    ("card.yaml", "provider: lib", "provider: lib, after: [print]", "/issue/after/0"),
    ("card.yaml", "Desk}, steps: [issue]", "Desk}, steps: [x]", "/visits/0/steps/0"),
    ("card.yaml", "Desk}, steps: [issue]}",
     "Desk}, steps: [issue]}\n  - {name: {zh: 邮局, en: Post}, steps: [post]}",
     "card.yaml:43: /visits/1: no requirement is for its steps: it is never counted"),
    ("card.yaml", "type: boolean", "type: choice", "/lives_here/choices: choices bel"),
    ("card.yaml", "P2D", "P0D", "/source_limit: must be longer than nothing"),
    ("card.yaml", "P2D", "P9999Y", "card.yaml:7: /source_limit: must be no longer th"),
    ("card.yaml", "provider: lib",
     "provider: lib, promised: {count: 36526, calendar: days}",
     "/steps/issue/promised/count: .*36525"),
    ("grants.yaml", "    valid_from:",
     "    quota: {lookups: 9, per: P0D}\n    valid_from:",
     "grants.yaml:20: /grants/0/quota/per: must be longer than nothing"),
    ("grants.yaml", "    valid_from:",
     "    quota: {lookups: 9, per: P367D}\n    valid_from:",
     "grants.yaml:20: /grants/0/quota/per: must be no longer than 366 days"),
    ("grants.yaml", "    valid_from:",
     "    quota: {lookups: 1000000001, per: P1D}\n    valid_from:",
     "/grants/0/quota/lookups: .*1000000000"),
    ("card.yaml", "type: citizen_id, ", "type: citizen_id, not_after: today, ",
     "/roles/reader/facts/id/not_after: only a `date`"),
    ("card.yaml", "type: boolean", "type: boolean\n    not_after: today",
     "/questions/lives_here/not_after: only"),
    ("card.yaml", "type: citizen_id, ", "type: date, not_after: tomorrow, ",
     "/not_after: must be one of `today`"),
    # --- the deployment
    ("deployment.yaml", "ga_residence", "gb_residence", "no service `gb_residence`"),
    ("deployment.yaml", "http://", "ftp://", "/services/ga_residence/endpoint: must"),
    ("deployment.yaml", "services:", "providers: {x: {keys: []}}\nservices:", "no pro"),
    ("deployment.yaml", "services:", "requesters: {new: {}}\nservices:", "it needs "),
    ("deployment.yaml", "services:",
     "requesters:\n  new: {name: {zh: 新, en: New}}\nservices:",
     "deployment.yaml:3: /requesters/new: `new` is new: it needs a name and scopes$"),
    ("deployment.yaml", "services:",
     "requesters:\n  new: {name: {zh: 新, en: New}, scopes: []}\nservices:",
     "yaml:3: /requesters/new/scopes: has 0 members, and must have at least 1$"),
    ("deployment.yaml", "services:", "requesters:\n  desk: {scopes: []}\nservices:",
     "yaml:3: /requesters/desk/scopes: has 0 members, and must have at least 1$"),
    ("deployment.yaml", "services:",
     "requesters: {desk: {scopes: [portal]}}\nservices:", "`desk` has a name and scop"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "expected"), BROKEN)
def test_each_wrong_place_is_named_by_file_line_and_path(
    file: str, old: str, new: str, expected: str
) -> None:
    """The place is `file:line: /json/pointer: message`, and says what to change."""
    places = broken(file, old, new)

    assert any(re.search(expected, place) for place in places), places
    for place in places:
        assert re.match(r"[a-z]+\.yaml:[1-9][0-9]*: (/[^:]*)?: .+", place)


NEXT_DOOR = (
    SMALL["card.yaml"]
    .replace(
        "asks:\n",
        "asks:\n  next_door: {evidence_type: residence@1, about: owner,"
        " mode: retrieve, roles: {landlord: reader}}\n",
    )
    .replace("      - all: [", "      - all: [{ask: next_door, fields: [floor]}, ")
)
"""Where the owner lives as well, whom the reader's register tells."""
SHOWN = SMALL["evidence.yaml"].replace("        comparison_only: true\n", "")


def test_nothing_is_looked_up_by_what_is_only_compared() -> None:
    """A key that only a field for comparison tells can never be filled."""
    with pytest.raises(PackError, match="/asks/next_door: no set of its keys"):
        load_pack(SMALL | {"card.yaml": NEXT_DOOR})
    pack = load_pack(SMALL | {"card.yaml": NEXT_DOOR, "evidence.yaml": SHOWN})
    assert {"next_door", "residence"} == pack.matters["card@1"].asks.keys()


BOTH = SMALL | {
    "evidence.yaml": SHOWN.replace("[retrieve]", "[retrieve, verify]"),
    "grants.yaml": SMALL["grants.yaml"].replace("[retrieve]", "[retrieve, verify]"),
}


def verifying(matter: str) -> str:
    """Return a matter in which the reader's landlord is only compared at the source."""
    return (
        matter.replace("mode: retrieve\n", "mode: verify\n")
        .replace("fields: [region], compare", "compare")
        .replace("    criterion: \"reader.region.startsWith('9901')\"\n", "")
    )


def test_nothing_is_looked_up_by_what_is_only_verified() -> None:
    """Whoever verifies learns whether it fits, and no key of another ask."""
    matter = verifying(NEXT_DOOR)
    stated = matter.replace(
        "required: false, facts: {}}",
        "required: false, facts: {id: {name: {zh: 号, en: Id}, type: citizen_id}}}",
    )

    with pytest.raises(PackError) as caught:
        load_pack(BOTH | {"card.yaml": matter})
    keys, fact = caught.value.places
    assert re.match(
        r"card.yaml:[0-9]+: /asks/next_door: no set of its keys .*: let", keys
    )
    assert re.match(r"card.yaml:[0-9]+: /asks/residence: it takes `owner.id`, ", fact)
    assert "card@1" in load_pack(BOTH | {"card.yaml": stated}).matters


def test_a_fact_that_is_verified_is_told_before() -> None:
    """It is sent to the source: an ask that tells it is of use, whoever names it."""
    matter = verifying(SMALL["card.yaml"])
    told = matter.replace(
        "asks:\n",
        "asks:\n  lease: {evidence_type: residence@1, about: reader,"
        " mode: retrieve, roles: {landlord: owner}}\n",
    )
    with pytest.raises(PackError) as caught:
        load_pack(BOTH | {"card.yaml": matter})
    pack = load_pack(BOTH | {"card.yaml": told})

    [place] = caught.value.places
    why, remedy = place.removeprefix("card.yaml:22: /asks/residence: ").split(": ")
    assert "it takes `owner.id`, which nothing here tells" == why
    assert "let a role state it, or another ask retrieve it" == remedy
    assert {"lease", "residence"} == pack.matters["card@1"].asks.keys()


LEADING = """\
  - id: {id}
    version: 1
    name: {{zh: 登记, en: Register}}
    modes: [retrieve, verify]
    keys: [[{{name: key, concept: {key}}}]]
    sharing: conditional
    sensitivity: ordinary
    max_age: null
    fields:
      {field}:
        name: {{zh: 号, en: Number}}
        concept: self.{field}
        json_schema: {{type: string}}
"""


@pytest.mark.parametrize(
    ("mode", "told", "key", "wrong"),
    [
        ("retrieve", "card", "self.card", set()),
        ("retrieve", "town", "self.id", set()),
        ("retrieve", "shoe", "self.card", {"home", "house"}),
        ("verify", "card", "self.card", {"home", "house"}),
    ],
)
def test_an_ask_is_of_use_that_leads_to_one_which_a_requirement_needs(
    mode: str, told: str, key: str, wrong: set[str]
) -> None:
    """It tells a key or the region of that one, or of another that leads to it."""
    kinds = [
        LEADING.format(id="house", key="self.id", field="house"),
        LEADING.format(id="home", key="self.house", field=told),
    ]
    asks = f"""\
asks:
  house: {{evidence_type: house@1, about: reader, mode: retrieve}}
  home: {{evidence_type: home@1, about: reader, mode: {mode}}}
"""
    region = "    region: reader.town\n" if told == "town" else ""
    services = "".join(
        f"  - {{id: ga_{name}, provider: ga, evidence_type: {name}@1,"
        " connector: http, coverage: {regions: ['990100']}}\n"
        for name in ("house", "home")
    )
    files = SMALL | {
        "evidence.yaml": SMALL["evidence.yaml"].replace(
            "- [{name: id, concept: self.id}]", f"- [{{name: k, concept: {key}}}]"
        )
        + "".join(kinds),
        "services.yaml": SMALL["services.yaml"] + services,
        "card.yaml": SMALL["card.yaml"]
        .replace("asks:\n", asks)
        .replace("mode: retrieve\n    roles", f"mode: retrieve\n{region}    roles")
        .replace(
            "facts:\n      id:",
            "facts:\n      card: {name: {zh: 卡, en: Card}, type: text}\n      id:",
        ),
    }

    try:
        load_pack(files)
        found = set[str]()
    except PackError as error:
        found = {place.split(": ")[1] for place in error.places}
    assert {f"/asks/{name}" for name in wrong} == found


TWO_ASKS = (
    SMALL["card.yaml"]
    .replace(
        "asks:\n",
        "asks:\n  next_door: {evidence_type: residence@1, about: owner,"
        " concerns: [reader], mode: retrieve, roles: {landlord: reader}}\n",
    )
    .replace("- all: [", "- all: [{ask: next_door, fields: [floor]}, ")
    .replace(
        "required: false, facts: {}}",
        "required: false, facts: {id: {name: {zh: 号, en: Id}, type: citizen_id}}}",
    )
)
"""One ask is about the reader; the other is about the owner and concerns the reader."""


def granted(bases: tuple[str, ...], mode: str) -> dict[str, str]:
    """Return files with both asks, and a grant for each set of roles."""
    head, mark, grant = SMALL["grants.yaml"].partition("  - id: card_residence\n")
    body, basis, end = re.split(r"      reader:\n((?:        .*\n)*)", grant)
    grants = [
        f"{mark}{body}".replace("card_residence", f"grant_{at}")
        + "".join(f"      {role}:\n{basis}" for role in roles.split())
        + end
        for at, roles in enumerate(bases)
    ]
    text = SMALL["evidence.yaml"].replace("[retrieve]", "[retrieve, verify]")
    return SMALL | {
        "card.yaml": TWO_ASKS,
        "evidence.yaml": text,
        "grants.yaml": head + "".join(grants).replace("[retrieve]", f"[{mode}]"),
    }


@pytest.mark.parametrize(
    ("bases", "mode", "wrong"),
    [
        (("reader", "reader owner"), "retrieve", []),
        (("reader owner",), "retrieve", []),
        (("reader", "owner"), "retrieve", ["/grants/1/bases"]),
        (("reader",), "verify", ["/grants/0/modes"]),
    ],
)
def test_each_grant_allows_something_by_itself(
    bases: tuple[str, ...], mode: str, wrong: list[str]
) -> None:
    """Two grants may each cover one ask; what one lacks, the other can't add."""
    try:
        load_pack(granted(bases, mode))
        found = []
    except PackError as error:
        found = [place.split(": ")[1] for place in error.places]

    assert wrong == found


FIELDS = "    fields: [region, landlord_id]\n"
OWNER = """\
    bases:
      owner:
        kind: statutory_duty
        reference: {law: {zh: 公共图书馆法, en: Public Library Law}, article: "33"}
"""
ASKED_WHEN = "    type: boolean\n    when: \"reader.region != '990200'\"\n"


@pytest.mark.parametrize(
    ("fields", "matter", "lacks"),
    [
        ("region", SMALL["card.yaml"], "`landlord_id`"),
        ("landlord_id", SMALL["card.yaml"], "`region`"),
        ("floor", SMALL["card.yaml"], "`landlord_id`, `region`"),
        # What a question turns on is looked up before any requirement wants more.
        ("region", SMALL["card.yaml"].replace("    type: boolean\n", ASKED_WHEN), None),
        ("landlord_id", NEXT_DOOR, None),
        ("floor", NEXT_DOOR, None),
        ("region", NEXT_DOOR, "`floor`"),
    ],
)
def test_a_grant_has_the_fields_of_some_look_up(
    fields: str, matter: str, lacks: str | None
) -> None:
    """All that a need wants; or the one field that is a key, or that a condition reads.

    A look-up that asks for more than one grant names is refused whole.
    """
    grants = (
        SMALL["grants.yaml"]
        .replace(FIELDS, f"    fields: [{fields}]\n")
        .replace("    bases:\n", OWNER)
    )
    files = SMALL | {"evidence.yaml": SHOWN, "card.yaml": matter, "grants.yaml": grants}
    try:
        load_pack(files)
        found: list[str] = []
    except PackError as error:
        found = [*error.places]

    why = f"grants.yaml:13: /grants/0/fields: allows nothing in `card`: {lacks} missing"
    assert ([why] if lacks else []) == found


def test_all_wrong_places_are_named_at_once() -> None:
    """Whoever writes a pack corrects it in one go."""
    wrong = SMALL | {
        "card.yaml": SMALL["card.yaml"]
        .replace("paper: lease", "paper: deed")
        .replace("provider: lib", "provider: bib"),
        "grants.yaml": SMALL["grants.yaml"].replace("requester: desk", "requester: x"),
    }
    with pytest.raises(PackError) as caught:
        load_pack(wrong)

    assert 4 == len(caught.value.places)
    assert {"card.yaml", "grants.yaml"} == {
        place.partition(":")[0] for place in caught.value.places
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (a_key(d="c2VjcmV0"), "/jwk/d: a private key"),
        (a_key(crv="X25519"), "must be an Ed25519 key"),
        (a_key(x="AAAA"), "/jwk/x: must be 32 bytes"),
        (a_key(kid="5"), "`kid` missing"),
        (a_key(thumbprint="A" * 43), "/thumbprint: is not that of `jwk`"),
    ],
)
def test_a_pinned_key_must_be_public_and_its_own(key: str, expected: str) -> None:
    """Only an Ed25519 public key with its own thumbprint is pinned."""
    places = broken(
        "deployment.yaml",
        "services:",
        f"providers: {{ga: {{keys: [{key}]}}}}\nservices:",
    )

    assert any(expected in place for place in places)


def test_a_wrong_key_is_named_in_the_file_that_holds_it() -> None:
    """Keys of one department come from many files, and each is in its own."""
    good, wrong = a_key(), a_key(thumbprint="A" * 43)
    first = f"{{id: ga, keys: [{good}],"
    more = f"""\
kind: deployment
requesters: {{desk: {{keys: [{wrong}]}}}}
providers:
  ga:
    keys:
      - {good}
      - {wrong}
"""
    with pytest.raises(PackError) as caught:
        load_pack(
            SMALL
            | {
                "providers.yaml": SMALL["providers.yaml"].replace("{id: ga,", first),
                "keys.yaml": "kind: deployment\nproviders: {ga: {keys: []}}\n",
                "more.yaml": more,
            }
        )

    because = "thumbprint: is not that of `jwk` (RFC 7638)"
    assert (
        f"more.yaml:7: /providers/ga/keys/1/{because}",
        f"more.yaml:2: /requesters/desk/keys/0/{because}",
    ) == caught.value.places


@given(st.permutations(sorted(SMALL)))
def test_the_order_of_files_says_nothing(names: list[str]) -> None:
    """Above all a deployment may come before what it adds to, in one folder."""
    assert load_pack(SMALL).digest == load_pack({n: SMALL[n] for n in names}).digest


def test_a_deployment_adds_keys_and_clients() -> None:
    """Keys are pinned to departments and portals; a new client is declared."""
    added = f"""\
kind: deployment
providers: {{ga: {{keys: [{a_key()}]}}}}
requesters:
  desk: {{keys: [{a_key()}], purposes: [lending, renewal]}}
  auditor_1: {{name: {{zh: 审计, en: Auditor}}, scopes: [auditor]}}
"""
    pack = load_pack(SMALL | {"more.yaml": added})

    assert [THUMBPRINT] == [key.thumbprint for key in pack.providers["ga"].keys]
    assert [THUMBPRINT] == [key.thumbprint for key in pack.requesters["desk"].keys]
    assert ("lending", "renewal") == pack.requesters["desk"].purposes
    assert ["auditor"] == list(pack.requesters["auditor_1"].scopes)


@pytest.mark.parametrize(
    "fields",
    [
        {"region": "99010"},
        {"region": 990100},
        {"floor": "3"},
        {"floor": True},
        {"colour": "secret"},
    ],
)
def test_fields_that_do_not_fit_are_refused_without_their_values(
    fields: dict[str, Any],
) -> None:
    """The error names the field and the evidence type, never the value."""
    validate = load_pack(SMALL).validator("residence@1")
    with pytest.raises(VerificationError, match="does not fit `residence@1`") as caught:
        validate(fields)

    assert str(next(iter(fields.values()))) not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "schema",
    [
        "{type: integer, minimum: 5, maximum: 5}",
        '{type: [string, "null"], enum: [A, null], format: date}',
        "{type: object, properties: {maxlength: {type: string}}, title: t}",
        "{type: object, properties: {$ref: {type: string}, $id: {type: string}}}",
        "{const: {$ref: 'http://x/'}, examples: [{$id: 'http://x/'}]}",
    ],
)
def test_schemas_that_can_be_fulfilled_pass(schema: str) -> None:
    """Names of properties, and in values, are no keywords; one value is a range."""
    changed = SMALL["evidence.yaml"].replace("{type: integer}", schema)

    assert load_pack(SMALL | {"evidence.yaml": changed}).matters


def test_any_fields_of_a_type_that_fit_pass() -> None:
    """A look-up asks for some fields, and those are checked."""
    validate = load_pack(SMALL).validator("residence@1")

    validate({})
    validate({"floor": 3})
    validate({"region": "990101", "floor": 3})


def test_a_step_may_need_nothing() -> None:
    """It stands there for those who read the matter, with its time limits."""
    more = "  post: {name: {zh: 邮寄, en: Post}, provider: lib, after: [issue]}\n"
    card = SMALL["card.yaml"].replace("papers:", f"{more}papers:")

    assert "post" in load_pack(SMALL | {"card.yaml": card}).matters["card@1"].steps


def test_a_promise_may_have_paragraphs() -> None:
    """It is a text; a name is one line."""
    promise = PROMISE.format(zh=r"一、所填属实。\n\n二、愿担责任。\n")
    card = SMALL["card.yaml"].replace(LISTS, LISTS + promise)
    requirement = load_pack(SMALL | {"card.yaml": card}).matters["card@1"].requirements

    assert requirement["residence"].commitment is not None


def test_too_many_files_are_refused() -> None:
    """A folder that is no pack is not read to its end."""
    with pytest.raises(PackError, match="more than 500 files"):
        load_pack({f"{number}.yaml": "" for number in range(501)})


@given(st.text(max_size=200) | st.sampled_from(list(SMALL.values())))
def test_no_text_does_more_than_raise_a_pack_error(text: str) -> None:
    """Whatever is in a file, loading ends with a pack or with places."""
    with pytest.raises(PackError):
        load_pack({"a.yaml": text, "b.yaml": "kind: x"})


def test_the_published_schemas_are_those_that_are_checked() -> None:
    """`python -m tests.schemas.publish` writes them anew."""
    for path, content in published().items():
        assert content == path.read_bytes(), path.name


def test_the_published_schemas_are_schemas_under_their_addresses() -> None:
    """Each is a valid schema of 2020-12, and its address ends in its file's name."""
    folder = ROOT / "schemas" / "json"

    assert published().keys() <= set(folder.iterdir())
    for path, content in published().items():
        schema = orjson.loads(content)
        Draft202012Validator.check_schema(schema)
        assert f"https://errand.example/schemas/{path.name}" == schema["$id"]
