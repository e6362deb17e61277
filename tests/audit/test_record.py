"""Leaves: the bytes of their final form, and everything that is not one."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit.note import b64
from audit.record import (
    LEAF_LIMIT,
    MAY_OPEN,
    Audience,
    Event,
    Kind,
    Section,
    build_leaf,
    milliseconds,
    read_leaf,
)
from schemas.canonical import Json, canonical_plain
from schemas.clock import to_rfc3339_ms
from schemas.errors import VerificationError
from schemas.ids import EventId
from tests.audit.examples import NOW, an_event

EVENT = an_event(id=EventId("019b9c3a-1234-7000-8000-0123456789ab"))
LEAF = build_leaf(EVENT, "log.example/1", bytes(16), [b"t" * 16], {"actor": b"c" * 32})
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=256)


def changed(**fields: object) -> bytes:
    """Return the leaf with fields of other values, in canonical form."""
    return canonical_plain({**orjson.loads(LEAF), **fields})  # type: ignore[dict-item] # any JSON


def test_a_leaf_has_the_bytes_of_its_final_form() -> None:
    """The form can't change: a log written today is verified in thirty years."""
    expected = (
        b'{"c":{"actor":"Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M="},'
        b'"corr":"lookup-1","etype":"birth_certificate@1",'
        b'"id":"019b9c3a-1234-7000-8000-0123456789ab","kind":"request.accepted",'
        b'"log":"log.example/1","outcome":"accepted","pol":"packs-digest",'
        b'"prov":"yunxi_health","req":"yunxi_portal",'
        b'"salt":"AAAAAAAAAAAAAAAAAAAAAA==","t":"2026-01-08T06:30:00.000Z",'
        b'"tags":["dHR0dHR0dHR0dHR0dHR0dA=="],"v":1}'
    )

    assert expected == LEAF


@given(
    st.lists(words, min_size=6, max_size=6),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
    st.sampled_from([kind for kind in Kind if kind is not Kind.REQUEST_ENDED]),
)
def test_a_leaf_is_canonical_and_says_what_was_said(
    said: list[str], at: datetime, kind: Kind
) -> None:
    """Every leaf is RFC 8785 and reads back as its event."""
    names = "outcome", "requester", "provider", "evidence_type", "policy", "correlation"
    event = an_event(kind, at=at, **dict(zip(names, said, strict=True)))
    data = build_leaf(event, "log.example/1", bytes(16), [bytes(16)], {})
    leaf = read_leaf(data)

    assert rfc8785.dumps(orjson.loads(data)) == data
    assert said == [getattr(leaf, name) for name in names]
    assert (event.id, kind) == (leaf.id, leaf.kind)
    assert milliseconds(at) == milliseconds(leaf.at)


@given(
    st.lists(words, min_size=6, max_size=6),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    st.sets(st.sampled_from(list(Section))),
    st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=8),
)
def test_a_leaf_is_written_as_canonical_json(
    said: list[str],
    at: datetime,
    origin: str,
    sections: set[Section],
    tags: list[bytes],
) -> None:
    """The short way to a leaf's bytes and the one over JSON values come to the same."""
    names = "outcome", "requester", "provider", "evidence_type", "policy", "correlation"
    fields: dict[str, Any] = dict(zip(names, said, strict=True))
    event = an_event(at=at, **fields)
    commitments = {name.value: bytes([len(name)]) * 32 for name in sorted(sections)}
    expected: Json = {
        "v": 1,
        "log": origin,
        "id": event.id,
        "t": to_rfc3339_ms(at),
        "kind": event.kind,
        "outcome": event.outcome,
        "req": event.requester,
        "prov": event.provider,
        "etype": event.evidence_type,
        "pol": event.policy,
        "corr": event.correlation,
        "salt": b64(b"s" * 16),
        "tags": [b64(tag) for tag in tags],
        "c": {name: b64(value) for name, value in commitments.items()},
    }
    leaf = build_leaf(event, origin, b"s" * 16, tags, commitments)

    assert canonical_plain(expected) == leaf


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        LEAF + b"\n",
        LEAF.replace(b'{"c"', b'{ "c"'),
        LEAF.replace(b'"v":1}', b'"v":1,"v":1}'),
        LEAF.replace(b'"v":1}', b'"v":1,"w":1}'),
        LEAF.replace(b'"v":1}', b'"v":1.0}'),
        changed(v=2),
        changed(v=True),
        changed(v="1"),
        changed(id="1"),
        changed(id=1),
        changed(t="2026-01-08T06:30:00Z"),
        changed(kind="request.forgotten"),
        changed(c={"name": "AA=="}),
        changed(c={"actor": "AA=="}),
        changed(c=[]),
        changed(salt="AA=="),
        changed(salt=None),
        changed(tags=[]),
        changed(tags=["dHR0dHR0dHR0dHR0dHR0dA=="] * 3),
        changed(tags=["AA=="]),
        changed(tags="AA=="),
        changed(pol="x" * LEAF_LIMIT),
    ],
)
def test_what_is_almost_a_leaf_is_refused(data: bytes) -> None:
    """Another type, form, size or key is refused, and so is a key twice."""
    with pytest.raises(VerificationError):
        read_leaf(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "not-an-id"},
        {"id": EVENT.id.upper()},
        {"outcome": "with space"},
        {"requester": "portal\n"},
        {"provider": "云溪市"},
        {"policy": "x" * 257},
        {"matter": "a b"},
        {"correlation": '\\ "'},
    ],
)
def test_words_that_may_not_stand_in_a_leaf_are_refused(
    fields: dict[str, object],
) -> None:
    """What goes into a leaf in the clear is words of ours, and bounded."""
    event = an_event(Kind.CASE_OPENED, **fields)

    with pytest.raises(ValueError, match="`"):
        build_leaf(event, "log.example/1", bytes(16), [bytes(16)], {})


def test_no_text_of_an_event_shows_whom_it_is_about() -> None:
    """Ids and details stay out of what a log line or a traceback prints."""
    event: Event = an_event(details={"street": "planted street"})

    assert "9901" not in repr(event)
    assert "clerk" not in repr(event)
    assert "planted" not in repr(event)


def test_a_citizen_sees_why_and_not_which_official() -> None:
    """Each audience opens its own sections, and the auditor all."""
    assert {Section.SUBJECT, Section.MATTER} == MAY_OPEN[Audience.CITIZEN]
    assert Section.ACTOR not in MAY_OPEN[Audience.PROVIDER]
    assert frozenset(Section) == MAY_OPEN[Audience.AUDITOR]
    assert set(Audience) == set(MAY_OPEN)


def test_times_are_cut_to_milliseconds() -> None:
    """A fraction of a millisecond is dropped, in the leaf and in the receipt alike."""
    at = NOW.replace(microsecond=999_999)

    assert milliseconds(NOW) + 999 == milliseconds(at)
