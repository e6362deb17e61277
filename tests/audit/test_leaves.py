"""The fast path for leaves takes nothing that `read_leaf` refuses."""

import random
from collections.abc import Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.leaves import Leaves, Seen, leaf_pattern
from audit.note import b64
from audit.record import Kind, Section, build_leaf, read_leaf
from schemas.canonical import Json, canonical_plain
from schemas.errors import VerificationError
from tests.audit.examples import ORIGIN, an_event

_noise = random.Random(3)  # noqa: S311 - bytes of a test

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.REQUEST_ENDED])
PLAIN = leaf_pattern(ORIGIN).fullmatch


@st.composite
def leaves(draw: st.DrawFn) -> bytes:
    """Return a leaf as this exchange writes them."""
    event = an_event(
        draw(kinds),
        outcome=draw(words),
        requester=draw(words),
        provider=draw(words),
        correlation=draw(words),
    )
    sections = draw(st.sets(st.sampled_from(sorted(Section))))
    count = draw(st.sampled_from((1, 2, 4, 8)))
    return build_leaf(
        event,
        draw(st.just(ORIGIN) | st.just("other.example/log")),
        _noise.randbytes(16),
        sorted(_noise.randbytes(16) for _ in range(count)),
        {section.value: _noise.randbytes(32) for section in sorted(sections)},
    )


PIECES = (
    b",", b'"', b"{}", b"\\u0061", b"\\n", b" ", b"\x7f", b"\xc3\xa9", b'"v":1,', b"==",
    b"1e0", b"1.0", b"0", b"Z", b"/", b"B", b'"tags":[],', b"\x00", b"]", b"x" * 257,
    "\u0661".encode(),
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Return a leaf with a few bytes replaced, inserted or taken out."""
    leaf = bytearray(draw(leaves()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(leaf)))
        gone = draw(st.integers(0, 3))
        leaf[at : at + gone] = draw(st.sampled_from(PIECES) | st.binary(max_size=3))
    return bytes(leaf)


@given(leaves() | mangled() | st.binary(max_size=50))
def test_the_fast_path_takes_only_what_read_leaf_takes(leaf: bytes) -> None:
    """And finds the same log, event, kind and sections in it."""
    found = PLAIN(leaf)
    if found is None:
        return
    read = read_leaf(leaf)
    sections, event, kind = found.groups()

    assert ORIGIN == read.log
    assert (read.id, read.kind) == (event.decode(), kind.decode())
    assert list(read.commitments) == sections.decode().split('"')[1::4]


@given(leaves())
def test_what_this_exchange_writes_is_read_by_one_path_or_the_other(
    leaf: bytes,
) -> None:
    """Plain leaves quickly, those with quotation marks as well; another log's never."""
    read = read_leaf(leaf)
    reader = Leaves(ORIGIN)
    if read.log != ORIGIN:
        with pytest.raises(VerificationError, match="another log"):
            reader.see(leaf)
        with pytest.raises(VerificationError, match=r"entry 7: .* another log"):
            reader.check(7, [leaf])
        return
    seen = reader.see(leaf)
    reader.check(8, [leaf])

    assert Seen(read.id, read.kind, sorted(read.commitments)) == seen
    assert {read.kind: 2} == reader.kinds
    has_plain_words = not {b'"', b"\\"} & {bytes([c]) for c in words_of(leaf)}
    assert has_plain_words == (PLAIN(leaf) is not None)


def words_of(leaf: bytes) -> bytes:
    """Return the open words of a leaf."""
    parsed = orjson.loads(leaf)
    return "".join(parsed[name] for name in ("outcome", "req", "prov", "corr")).encode()


def parts() -> Sequence[tuple[str, Json]]:
    """Return fields with values that are almost right."""
    almost32 = b64(bytes(32))[:-2] + "B="  # bits beyond the last byte
    almost16 = b64(bytes(16))[:-3] + "B=="
    return (
        ("v", 2),
        ("salt", almost16),
        ("salt", b64(bytes(15))),
        ("tags", [almost16]),
        ("tags", [b64(bytes(16))] * 3),
        ("tags", []),
        ("c", {"actor": almost32}),
        ("c", {"actor": b64(bytes(31))}),
        ("c", {"other": b64(bytes(32))}),
        ("kind", "request"),
        ("t", "2026-01-08 06:30:00.000Z"),
        ("id", "019B9C3A-0000-7000-8000-00000000C0DE"),
        ("more", ""),
    )


@pytest.mark.parametrize(("name", "value"), parts())
def test_a_field_that_is_almost_right_is_refused_by_both(
    name: str, value: Json
) -> None:
    """Each part of the form is demanded by the fast path itself."""
    leaf = build_leaf(an_event(), ORIGIN, bytes(16), [bytes(16)], {})
    wrong = canonical_plain({**orjson.loads(leaf), name: value})

    assert PLAIN(leaf) is not None
    assert PLAIN(wrong) is None
    with pytest.raises(VerificationError):
        read_leaf(wrong)


@pytest.mark.parametrize("origin", ['a"b', "a\\b", "caf\u00e9"])
def test_a_log_whose_name_json_writes_otherwise_is_read_all_the_same(
    origin: str,
) -> None:
    """The fast path leaves it alone."""
    leaf = build_leaf(an_event(), origin, bytes(16), [bytes(16)], {})

    assert leaf_pattern(origin).fullmatch(leaf) is None
    assert "request.accepted" == Leaves(origin).see(leaf).kind
