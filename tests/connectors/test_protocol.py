"""Look-ups and evidence on the wire, and the checks that evidence must pass."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OKPKey
from pydantic import JsonValue, ValidationError

from connectors.checking import FieldChecker, check_evidence, restore_evidence
from connectors.jose import SigningKey, sign_compact
from connectors.kinds.http import lookup_claims
from connectors.lookup import Evidence, LookupRequest
from connectors.problems import PROBLEM_STATUS, ProblemType, parse_problem, problem_body
from connectors.protocol import (
    EVIDENCE_TYPE,
    LOOKUP_TYPE,
    EvidenceClaims,
    open_evidence,
    open_lookup,
    seal_evidence,
    sign_lookup,
    subject_digest,
)
from schemas.canonical import b64url, b64url_decode, sha256_b64url
from schemas.errors import ConnectorFaultError, Fault, VerificationError
from schemas.evidence import Mode
from tests.connectors.examples import (
    DEPARTMENT_KEY,
    FATHER,
    GATEWAY,
    GATEWAY_KEY,
    MARRIAGE,
    MOTHER,
    NOW,
    SALT,
    STRANGERS_KEY,
    Entropy,
    a_request,
    as_text,
    pinned,
)

VALUES: Mapping[str, JsonValue] = {"status": "MARRIED", "spouse_id": FATHER}
CHECKER = FieldChecker()


def claims_for(request: LookupRequest, **changes: object) -> EvidenceClaims:
    """Return the claims of a right answer, with `changes`."""
    claims = EvidenceClaims(
        iss=request.service.provider,
        aud=request.requester,
        jti="evidence-00000001",
        iat=int(NOW.timestamp()),
        lookup=request.id,
        evidence_type=request.evidence_type.ref,
        subject=subject_digest(SALT, request.keys),
        as_of=NOW,
        match=True if request.mode is Mode.VERIFY else None,
    )
    return claims.model_copy(update=changes)


def sealed(
    request: LookupRequest,
    values: Mapping[str, JsonValue] | None = VALUES,
    key: SigningKey = DEPARTMENT_KEY,
    **changes: object,
) -> str:
    """Return an answer as an SD-JWT, right but for `changes`."""
    if request.mode is Mode.VERIFY:
        values = None
    return seal_evidence(claims_for(request, **changes), values, key, Entropy())


def checked(
    request: LookupRequest, sd_jwt: str, now: datetime = NOW
) -> tuple[Evidence, bool | None]:
    """Return what the guard lets through."""
    return check_evidence(request, sd_jwt, pinned(), now, CHECKER)


def fault_of(request: LookupRequest, sd_jwt: str, now: datetime = NOW) -> Fault:
    """Return the fault that the guard finds."""
    with pytest.raises(ConnectorFaultError) as caught:
        checked(request, sd_jwt, now)
    return caught.value.fault


def test_a_right_answer_passes() -> None:
    """Evidence carries exactly what was asked for, and who says so."""
    request = a_request()
    evidence, match = checked(request, sealed(request))

    assert match is None
    assert VALUES == evidence.values(["status", "spouse_id"])
    assert ("civil_affairs", "marriage_register") == (
        evidence.provider,
        evidence.service,
    )


@pytest.mark.parametrize("match", [True, False])
def test_a_comparison_passes_without_fields(match: bool) -> None:  # noqa: FBT001 - a parameter
    """In verify mode the answer is signed and nothing else comes."""
    request = a_request(mode=Mode.VERIFY, match={"status": "MARRIED"})
    evidence, seen = checked(request, sealed(request, match=match))

    assert match is seen
    assert {} == evidence.disclosed.values


names = st.text("abcdefghij", min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=6,
)


@given(values=st.dictionaries(names, json_values, max_size=6), data=st.data())
def test_dropping_any_disclosures_keeps_the_signature_valid(
    values: dict[str, JsonValue], data: st.DataObject
) -> None:
    """A presentation of any part verifies, and shows that part alone."""
    whole = open_evidence(sealed(a_request(), values), pinned())
    shown = data.draw(
        st.sets(st.sampled_from(sorted(values))) if values else st.just(set())
    )
    evidence = restore_evidence(
        "~".join([whole.jwt, *whole.disclosed.encoded.values(), ""]),
        "any_service",
    )
    part = open_evidence(evidence.presentation(shown), pinned())

    assert {n: values[n] for n in shown} == part.disclosed.values
    assert whole.claims == part.claims


@given(data=st.data())
def test_evidence_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    """Neither the signed part, nor a disclosure, nor a separator can change."""
    request = a_request()
    sd_jwt = sealed(request)
    place = data.draw(st.integers(0, len(sd_jwt) - 1))
    other = data.draw(
        st.sampled_from("aZ0-_.~=+ é\n").filter(lambda c: c != sd_jwt[place])
    )

    with pytest.raises(ConnectorFaultError):
        checked(request, sd_jwt[:place] + other + sd_jwt[place + 1 :])


@given(cut=st.integers(0, 5000))
def test_evidence_cut_short_is_refused(cut: int) -> None:
    """No beginning of an answer is an answer."""
    request = a_request()
    sd_jwt = sealed(request)

    with pytest.raises(ConnectorFaultError):
        checked(request, sd_jwt[: cut % len(sd_jwt)])


def test_evidence_is_an_ordinary_jws_to_joserfc() -> None:
    """The department's signature verifies with the ordinary library at the portal."""
    evidence, _ = checked(request := a_request(), sealed(request))
    key = OKPKey.import_key(as_text(DEPARTMENT_KEY.public_jwk()))

    seen = jws.deserialize_compact(evidence.jwt, key, algorithms=["Ed25519"])

    assert EVIDENCE_TYPE == seen.headers()["typ"]
    assert 2 == len(orjson.loads(seen.payload)["fields"]["_sd"])


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        (Fault.LOOKUP, {"lookup": "lookup-of-another"}),
        (Fault.LOOKUP, {"aud": "another_portal"}),
        (Fault.LOOKUP, {"iss": "another_provider"}),
        (Fault.LOOKUP, {"evidence_type": "marriage@2"}),
        (Fault.SUBJECT, {"subject": subject_digest(SALT, {"person_id": FATHER})}),
        (Fault.SUBJECT, {"subject": subject_digest(b"x" * 16, {"person_id": MOTHER})}),
        (Fault.STALE, {"as_of": NOW - timedelta(days=1, seconds=1)}),
        (Fault.STALE, {"as_of": NOW + timedelta(seconds=61)}),
        (Fault.STALE, {"iat": int(NOW.timestamp()) - 61}),
        (Fault.STALE, {"iat": int(NOW.timestamp()) + 61}),
        (Fault.FORMAT, {"match": True}),
    ],
)
def test_evidence_for_something_else_is_faulty(
    fault: Fault, changes: dict[str, Any]
) -> None:
    """Each claim that does not fit the question has its fault."""
    request = a_request()

    assert fault is fault_of(request, sealed(request, **changes))


def test_evidence_is_fresh_up_to_its_last_instant() -> None:
    """`as_of` may be as old as the evidence type allows, and no older."""
    request = a_request()

    assert checked(request, sealed(request, as_of=NOW - timedelta(days=1)))


def test_a_type_that_does_not_age_may_be_old() -> None:
    """Without `max_age` an old birth certificate is as good as a new one."""
    ageless = MARRIAGE.model_copy(update={"max_age": None})
    request = a_request(evidence_type=ageless)

    assert checked(request, sealed(request, as_of=NOW - timedelta(days=9000)))


@pytest.mark.parametrize(
    "as_of", ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"]
)
def test_an_instant_that_utc_has_not_is_faulty(as_of: str) -> None:
    """Also where the type does not age: nobody could write down when it was."""
    ageless = MARRIAGE.model_copy(update={"max_age": None})
    request = a_request(evidence_type=ageless)
    claims = claims_for(request).model_dump(mode="json", by_alias=True)
    told = {k: v for k, v in claims.items() if v is not None} | {"as_of": as_of}
    told["fields"] = {"_sd": []}
    jwt = sign_compact(orjson.dumps(told), EVIDENCE_TYPE, DEPARTMENT_KEY)

    assert Fault.FORMAT is fault_of(request, f"{jwt}~")


@pytest.mark.parametrize(
    ("fault", "values"),
    [
        (Fault.UNASKED_FIELD, {**VALUES, "children": []}),
        (Fault.MISSING_FIELD, {"status": "MARRIED"}),
        (Fault.SCHEMA, {**VALUES, "status": "ENGAGED"}),
        (Fault.SCHEMA, {**VALUES, "spouse_id": "990101"}),
        (Fault.SCHEMA, {**VALUES, "spouse_id": None}),
    ],
)
def test_fields_other_than_asked_are_faulty(
    fault: Fault, values: dict[str, JsonValue]
) -> None:
    """All fields asked for, no others, each of its shape."""
    request = a_request()

    assert fault is fault_of(request, sealed(request, values))


def test_a_date_that_is_none_is_faulty() -> None:
    """Formats are checked, which validators do not do by themselves."""
    request = a_request(fields=("registered_on",))

    assert Fault.SCHEMA is fault_of(
        request, sealed(request, {"registered_on": "2026-02-30"})
    )


def test_an_id_with_a_wrong_check_digit_is_not_faulty() -> None:
    """A wrong digit in a register is a conflict to be seen, not a broken answer."""
    request = a_request()
    near = FATHER[:-1] + ("0" if FATHER[-1] != "0" else "1")

    assert checked(request, sealed(request, {**VALUES, "spouse_id": near}))


def test_a_value_beside_the_disclosures_is_an_unasked_field() -> None:
    """What is in the signed part could never be dropped again."""
    request = a_request()
    jwt, *rest = sealed(request).split("~")
    payload = orjson.loads(b64url_decode(jwt.split(".")[1]))
    token = sign_compact(
        orjson.dumps({**payload, "name": "in the open"}), EVIDENCE_TYPE, DEPARTMENT_KEY
    )

    assert Fault.UNASKED_FIELD is fault_of(request, "~".join([token, *rest]))


def _members(sd_jwt: str) -> dict[str, str]:
    """Return the claims of an answer, each as it stands in JSON."""
    payload = orjson.loads(b64url_decode(sd_jwt.split(".")[1]))
    return {
        orjson.dumps(k).decode(): orjson.dumps(v).decode() for k, v in payload.items()
    }


def _resigned(sd_jwt: str, members: Iterable[tuple[str, str]], sign: str = ",") -> str:
    """Return an answer whose signed part has these members, between these signs."""
    payload = "{" + sign.join(f"{name} :\t{value}" for name, value in members) + "}"
    token = sign_compact(payload.encode(), EVIDENCE_TYPE, DEPARTMENT_KEY)
    return "~".join([token, *sd_jwt.split("~")[1:]])


@given(data=st.data(), mode=st.sampled_from(Mode))
def test_a_claim_that_comes_twice_is_faulty(data: st.DataObject, mode: Mode) -> None:
    """Of two, one reader takes the first and another the last: neither is chosen."""
    request = a_request(mode=mode, match={"status": "M"} if mode is Mode.VERIFY else {})
    sd_jwt = sealed(request)
    members = list(_members(sd_jwt).items())
    name, value = data.draw(st.sampled_from(members))
    escaped = f'"\\u{ord(name[1]):04x}{name[2:]}'
    one = data.draw(st.sampled_from([name, escaped]))
    other = data.draw(st.sampled_from([value, "null", '"zzz"', "7", '{"_sd":[]}']))
    place = data.draw(st.integers(0, members.index((name, value))))
    members.insert(place, (one, other))

    assert Fault.FORMAT is fault_of(request, _resigned(sd_jwt, members))


@given(data=st.data(), mode=st.sampled_from(Mode))
def test_claims_in_any_order_and_notation_pass(data: st.DataObject, mode: Mode) -> None:
    """A department writes its JSON as it likes: what counts is what it says."""
    request = a_request(mode=mode, match={"status": "M"} if mode is Mode.VERIFY else {})
    sd_jwt = sealed(request)
    members = data.draw(st.permutations(list(_members(sd_jwt).items())))
    at = data.draw(st.integers(0, len(members) - 1))
    name, value = members[at]
    if value.startswith('"'):
        value = value.replace("a", "\\u0061")
    members[at] = (f'"\\u{ord(name[1]):04x}{name[2:]}', value)
    if data.draw(st.booleans()):
        absent = '"match"' if mode is Mode.RETRIEVE else '"fields"'
        members.append((absent, "null"))
    if data.draw(st.booleans()):
        members = [m for m in members if m[0] != '"_sd_alg"']
    sign = data.draw(st.sampled_from([",", " ,\n  "]))

    assert checked(request, _resigned(sd_jwt, members, sign))


def test_the_claims_that_are_texts_are_all_named() -> None:
    """They tell how many quotation marks an answer has that says nothing twice."""
    claims = EvidenceClaims.model_json_schema(by_alias=False)["properties"]
    texts = {name for name, one in claims.items() if "string" in repr(one)}

    assert texts == EvidenceClaims.TEXTS


@pytest.mark.parametrize("name", sorted(EvidenceClaims.TEXTS))
@pytest.mark.parametrize("added", [None, '"'])
def test_no_claim_holds_a_quotation_mark(name: str, added: str | None) -> None:
    """Nor is one that is a text null: to count the marks would tell nothing."""
    told = claims_for(a_request()).model_dump(mode="json", exclude_none=True)
    told[name] = None if added is None else told[name] + added
    written = {f"_{n}" if n == "sd_alg" else n: value for n, value in told.items()}
    with pytest.raises(ValidationError) as caught:
        EvidenceClaims.model_validate_json(orjson.dumps(written))

    assert 1 == caught.value.error_count()


def test_the_hash_of_the_digests_has_one_name() -> None:
    """`sd_alg` is no claim: another reader of the same signature knows `_sd_alg`."""
    request = a_request()
    sd_jwt = sealed(request)
    members = _members(sd_jwt)
    members['"sd_alg"'] = members.pop('"_sd_alg"')

    assert Fault.UNASKED_FIELD is fault_of(request, _resigned(sd_jwt, members.items()))


def test_digests_that_are_named_twice_are_faulty() -> None:
    """Nor is one list of digests chosen out of two."""
    request = a_request()
    sd_jwt = sealed(request)
    members = _members(sd_jwt)
    digests = members['"fields"']
    members['"fields"'] = digests[:-1] + "," + digests[1:]

    assert Fault.FORMAT is fault_of(request, _resigned(sd_jwt, members.items()))


@pytest.mark.parametrize("value", ['{"a":1,"a":2}', '[{"b":{"a":1,"\\u0061":2}}]'])
def test_a_disclosed_member_that_comes_twice_is_faulty(value: str) -> None:
    """Also inside a value, however deep, and however its name is written."""
    request = a_request(fields=("children",))
    salt = b64url(bytes(16))
    text = b64url(f'["{salt}","children",{value}]'.encode())
    members = _members(sealed(request, {"children": []}))
    members['"fields"'] = f'{{"_sd":["{sha256_b64url(text.encode())}"]}}'
    whole = _resigned(f".~{text}~", members.items())

    assert Fault.FORMAT is fault_of(request, whole)


def test_an_object_in_a_value_passes() -> None:
    """Rows of a register are objects, and two of them have the same members."""
    request = a_request(fields=("children",))
    rows: list[JsonValue] = [{"name": "a", "big": 2**60, "x": 1.5}, {"name": "b"}]
    evidence, _ = checked(request, sealed(request, {"children": rows}))

    assert {"children": rows} == evidence.disclosed.values


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("match", "true"),
        ("match", 1),
        ("match", "no"),
        ("iat", str(int(NOW.timestamp()))),
        ("iat", NOW.timestamp()),
        ("as_of", int(NOW.timestamp())),
        ("as_of", f"{NOW.timestamp()}"),
        ("fields", {"_sd": "x" * 43}),
    ],
)
def test_a_claim_of_another_type_is_faulty(claim: str, value: JsonValue) -> None:
    """What a department means by `"no"` is not guessed at: it decides about people."""
    request = a_request()
    jwt, *rest = sealed(request).split("~")
    payload = orjson.loads(b64url_decode(jwt.split(".")[1]))
    token = sign_compact(
        orjson.dumps({**payload, claim: value}), EVIDENCE_TYPE, DEPARTMENT_KEY
    )

    assert Fault.FORMAT is fault_of(request, "~".join([token, *rest]))


def test_a_disclosure_that_was_not_signed_is_faulty() -> None:
    """Nobody on the way can add a field."""
    request = a_request()
    added = b64url(orjson.dumps(["salt", "status", "DIVORCED"]))

    assert Fault.SIGNATURE is fault_of(request, f"{sealed(request)}{added}~")


def test_a_disclosure_given_twice_is_faulty() -> None:
    """Each digest is opened once (RFC 9901, 7.1)."""
    request = a_request()
    sd_jwt = sealed(request)

    assert Fault.SIGNATURE is fault_of(request, sd_jwt + sd_jwt.split("~")[1] + "~")


def test_a_digest_signed_twice_is_faulty() -> None:
    """Nor is it signed twice, whether or not it is opened (RFC 9901, 7.1)."""
    request = a_request()
    token, *disclosures, _ = sealed(request).split("~")
    claims = orjson.loads(b64url_decode(token.split(".")[1]))
    claims["fields"]["_sd"].append(claims["fields"]["_sd"][0])
    token = sign_compact(orjson.dumps(claims), EVIDENCE_TYPE, DEPARTMENT_KEY)

    assert Fault.SIGNATURE is fault_of(request, "~".join([token, *disclosures, ""]))


def _salted(salts: Iterable[str]) -> str:
    """Return an answer with these salts for the first fields that are asked for."""
    texts = [
        b64url(orjson.dumps([salt, name, value]))
        for salt, (name, value) in zip(salts, VALUES.items(), strict=False)
    ]
    return _signed_with(a_request(), texts)


def _signed_with(request: LookupRequest, texts: list[str]) -> str:
    """Return an answer that discloses `texts`."""
    members = _members(sealed(request))
    digests = [sha256_b64url(text.encode()) for text in texts]
    members['"fields"'] = orjson.dumps({"_sd": digests}).decode()
    return _resigned("~".join(["", *texts, ""]), members.items())


_GUESSED = [
    "",
    "x" * 21,
    "y" * 21 + "=",
    "z" * 21 + "+",
    "x" * 22 + "\n",
    "z" * 21 + "~",
    "y" * 22 + "~" + "z" * 22,
]
"""Short, or of other characters than base64url's."""


@pytest.mark.parametrize(
    "salts",
    [[guessed] for guessed in _GUESSED]
    + [["a" * 22, guessed] for guessed in _GUESSED]
    + [[guessed, "a" * 22] for guessed in _GUESSED],
)
def test_a_salt_that_can_be_guessed_is_faulty(salts: list[str]) -> None:
    """Whoever is not shown a field of few values would try them all on its digest."""
    with pytest.raises(ConnectorFaultError, match="salt") as caught:
        open_evidence(_salted(salts), pinned())

    assert Fault.FORMAT is caught.value.fault


def test_a_salt_that_two_fields_share_is_faulty() -> None:
    """The one that is shown would tell the other's salt."""
    with pytest.raises(ConnectorFaultError, match="salt") as caught:
        open_evidence(_salted(["a" * 22, "a" * 22]), pinned())

    assert Fault.FORMAT is caught.value.fault


@given(sizes=st.tuples(st.integers(22, 86), st.integers(22, 86)))
def test_a_longer_salt_passes(sizes: tuple[int, int]) -> None:
    """Sixteen bytes are the least that a department may take."""
    opened = open_evidence(_salted(["a" * sizes[0], "b" * sizes[1]]), pinned())

    assert VALUES == opened.disclosed.values


def test_a_field_disclosed_twice_is_faulty() -> None:
    """Of two signed values of one field, neither is chosen."""
    request = a_request()
    texts = [
        b64url(orjson.dumps([salt * 22, "status", v]))
        for salt, v in (("a", "MARRIED"), ("b", "X"))
    ]
    claims = claims_for(request).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    claims["fields"] = {"_sd": [sha256_b64url(text.encode()) for text in texts]}
    token = sign_compact(orjson.dumps(claims), EVIDENCE_TYPE, DEPARTMENT_KEY)

    assert Fault.FORMAT is fault_of(request, "~".join([token, *texts, ""]))


@pytest.mark.parametrize(
    "parts", [{"a": 1, "b": 2, "c": 3}, "snv", ["s", 1, 2], [1, "n", 2], ["s", "n"], 7]
)
def test_a_disclosure_of_another_shape_is_faulty(parts: JsonValue) -> None:
    """Only [salt, name, value] discloses a field."""
    request = a_request()
    disclosure = b64url(orjson.dumps(parts))
    claims = claims_for(request).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    claims["fields"] = {"_sd": [sha256_b64url(disclosure.encode())]}
    token = sign_compact(orjson.dumps(claims), EVIDENCE_TYPE, DEPARTMENT_KEY)

    assert Fault.FORMAT is fault_of(request, f"{token}~{disclosure}~")


def test_a_stranger_s_signature_is_faulty() -> None:
    """Only the provider's pinned keys sign for it."""
    request = a_request()

    assert Fault.SIGNATURE is fault_of(request, sealed(request, key=STRANGERS_KEY))


def test_a_key_that_had_ended_is_faulty() -> None:
    """An old key verifies what it signed while it was valid, and nothing newer."""
    request = a_request()
    ended = tuple(k.model_copy(update={"valid_until": NOW}) for k in pinned())
    with pytest.raises(ConnectorFaultError) as caught:
        check_evidence(request, sealed(request), ended, NOW, CHECKER)

    assert Fault.SIGNATURE is caught.value.fault


def test_an_answer_in_the_other_mode_is_faulty() -> None:
    """Whoever asks whether it matches does not get the fields."""
    request = a_request(mode=Mode.VERIFY, match={"status": "MARRIED"})
    retrieved = seal_evidence(
        claims_for(request, match=None), VALUES, DEPARTMENT_KEY, Entropy()
    )

    assert Fault.FORMAT is fault_of(request, retrieved)


def test_kept_evidence_comes_back_as_it_was() -> None:
    """What is stored sealed is the SD-JWT, and all else is in it."""
    request = a_request()
    evidence, _ = checked(request, sealed(request))

    assert evidence == restore_evidence(
        evidence.presentation(evidence.disclosed.encoded), evidence.service
    )


def test_evidence_shows_no_value_when_it_is_printed() -> None:
    """A log line with a whole object in it holds no person's value."""
    request = a_request()
    evidence, _ = checked(request, sealed(request))

    shown = repr((request, evidence, evidence.disclosed))

    assert MOTHER not in shown
    assert FATHER not in shown


def test_a_lookup_comes_back_as_it_was_signed() -> None:
    """The department reads what the gateway wrote."""
    claims = lookup_claims(a_request(), GATEWAY)

    assert claims == open_lookup(sign_lookup(claims, GATEWAY_KEY), pinned(GATEWAY_KEY))


@pytest.mark.parametrize("part", ["keys", "match"])
def test_a_value_too_long_to_look_up_by_is_never_signed(part: str) -> None:
    """400 characters are the protocol's limit; a department would refuse more."""
    longest: dict[str, Any] = {part: {"person_id": "9" * 400}}
    longer: dict[str, Any] = {part: {"person_id": "9" * 401}}
    request = replace(a_request(), **longest)

    assert getattr(lookup_claims(request, GATEWAY), part) == {"person_id": "9" * 400}
    with pytest.raises(ValueError, match="exceeds 400 characters"):
        lookup_claims(replace(request, **longer), GATEWAY)


def test_a_lookup_of_a_key_that_had_ended_is_refused() -> None:
    """The gateway's old key asks for nothing new."""
    token = sign_lookup(lookup_claims(a_request(), GATEWAY), GATEWAY_KEY)
    ended = [k.model_copy(update={"valid_until": NOW}) for k in pinned(GATEWAY_KEY)]

    with pytest.raises(VerificationError, match="not valid"):
        open_lookup(token, ended)


@pytest.mark.parametrize(
    "change",
    [
        {"keys": {}},
        {"keys": {"person_id": 7}},
        {"iat": 253_402_300_800},
        {"mode": "guess"},
        {"jti": "x"},
        {"subject_salt": "short"},
        {"intent": None},
    ],
)
def test_a_signed_lookup_that_says_too_little_is_invalid(
    change: dict[str, object],
) -> None:
    """A signature does not excuse a missing or misshapen claim; values stay unsaid."""
    claims = lookup_claims(a_request(), GATEWAY).model_dump(mode="json")
    token = sign_compact(orjson.dumps({**claims, **change}), LOOKUP_TYPE, GATEWAY_KEY)
    with pytest.raises(ValueError, match="/") as caught:
        open_lookup(token, pinned(GATEWAY_KEY))

    assert next(iter(change)) in str(caught.value)
    assert MOTHER not in str(caught.value)


_CLAIMS = lookup_claims(a_request(), GATEWAY).model_dump(mode="json")


@pytest.mark.parametrize(
    ("where", "again"),
    [
        *[("{", {name: value}) for name, value in _CLAIMS.items()],
        ('"keys":{', {"person_id": FATHER}),
        ('"intent":{', {"index": 8}),
        ('"newer":{', {"a": 1}),
    ],
)
def test_a_signed_lookup_that_says_something_twice_is_invalid(
    where: str, again: dict[str, JsonValue]
) -> None:
    """Of two claims, or two keys of a record, a department chooses neither."""
    payload = orjson.dumps({**_CLAIMS, "newer": {"a": 2}}).decode()
    member = orjson.dumps(again).decode()[1:-1]
    twice = payload.replace(where, f"{where}{member},", 1)
    token = sign_compact(twice.encode(), LOOKUP_TYPE, GATEWAY_KEY)
    with pytest.raises(ValueError, match="each member comes once") as caught:
        open_lookup(token, pinned(GATEWAY_KEY))

    assert FATHER not in str(caught.value)


def test_a_claim_that_a_department_does_not_know_is_passed_over() -> None:
    """A newer gateway can say more without breaking older departments."""
    claims = lookup_claims(a_request(), GATEWAY)
    payload = {**claims.model_dump(mode="json"), "newer": True}
    token = sign_compact(orjson.dumps(payload), LOOKUP_TYPE, GATEWAY_KEY)

    assert claims == open_lookup(token, pinned(GATEWAY_KEY))


def test_nobody_tests_guesses_of_an_id_against_evidence() -> None:
    """The salt of the subject digest is nowhere in what the portal gets."""
    request = a_request()
    evidence, _ = checked(request, sealed(request))
    whole = evidence.presentation(evidence.disclosed.encoded)
    segments = [part for text in whole.split("~") for part in text.split(".") if part]

    assert all(SALT not in b64url_decode(segment) for segment in segments)
    assert b64url(SALT) not in b64url_decode(segments[1]).decode()


@given(
    keys=st.dictionaries(names, st.text(max_size=20), min_size=1, max_size=4),
    other=st.dictionaries(names, st.text(max_size=20), min_size=1, max_size=4),
)
def test_subject_digests_agree_when_the_keys_do(
    keys: dict[str, str], other: dict[str, str]
) -> None:
    """Same keys in any order, same digest; other keys, another."""
    turned = dict(reversed(keys.items()))

    assert subject_digest(SALT, keys) == subject_digest(SALT, turned)
    assert (keys == other) == (
        subject_digest(SALT, keys) == subject_digest(SALT, other)
    )


@pytest.mark.parametrize("problem", ProblemType)
def test_a_problem_comes_back_as_it_was_sent(problem: ProblemType) -> None:
    """Every problem of the list has one status, and is read again."""
    status = PROBLEM_STATUS[problem]
    seen = parse_problem(problem_body(problem, "detail", "some_rule"), status)

    assert (problem, "some_rule") == (seen.type, seen.code)


def test_a_problem_with_a_member_twice_is_faulty() -> None:
    """`not-held` for one reader must not be `unavailable` for another."""
    body = problem_body(ProblemType.NOT_HELD, "detail")
    with pytest.raises(ConnectorFaultError) as caught:
        parse_problem(b'{"code":"a","code":"b",' + body[1:], 404)

    assert Fault.FORMAT is caught.value.fault


def _other_type(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {**body, "type": "https://example.org/another"}


def _bare_type(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {**body, "type": "not-held"}


@pytest.mark.parametrize(
    ("change", "status"),
    [(_other_type, 404), (_bare_type, 404), (dict, 500), (list, 404)],
)
def test_a_problem_outside_the_list_is_faulty(
    change: Callable[[dict[str, JsonValue]], JsonValue], status: int
) -> None:
    """The list is closed: what is not on it is no answer."""
    body = orjson.loads(problem_body(ProblemType.NOT_HELD, "detail"))
    with pytest.raises(ConnectorFaultError) as caught:
        parse_problem(orjson.dumps(change(body)), status)

    assert Fault.FORMAT is caught.value.fault
