"""The consent artefact: what it covers, and when it holds."""

from hypothesis import given
from hypothesis import strategies as st

from consent.artefact import ConsentFields, ConsentState, is_within, merged
from tests.consent.examples import DAY, NOW, TICK, a_consent

_NAMES = st.frozensets(st.sampled_from("abc"))
_FIELDS: st.SearchStrategy[ConsentFields] = st.dictionaries(
    st.sampled_from(["birth@1", "birth@2", "marriage@1"]), _NAMES | st.none()
)


def test_expires_at_its_last_instant() -> None:
    """A consent holds up to the instant of its expiry, and no longer."""
    consent = a_consent(expires_at=NOW + DAY)

    assert consent.holds_at(NOW + DAY - TICK)
    assert not consent.holds_at(NOW + DAY)
    assert consent.state_at(NOW + DAY) is ConsentState.EXPIRED


def test_a_withdrawal_stays_a_withdrawal_after_expiry() -> None:
    """What a person said is not overwritten by time."""
    consent = a_consent(state=ConsentState.WITHDRAWN, expires_at=NOW - DAY)

    assert consent.state_at(NOW) is ConsentState.WITHDRAWN


def test_fields_of_one_evidence_type_are_none_of_another() -> None:
    """A consent to a field of one register says nothing about another's."""
    consent = a_consent(fields={"birth@1": frozenset({"name"})})

    assert consent.covers("birth@1", frozenset({"name"}))
    assert not consent.covers("birth@2", frozenset({"name"}))
    assert not consent.touches("marriage@1", frozenset({"name"}))


@given(_FIELDS, _FIELDS)
def test_what_is_merged_holds_both_and_no_more(
    one: ConsentFields, other: ConsentFields
) -> None:
    """Merging is the least that both lie within, whichever comes first."""
    both = merged(one, other)

    assert is_within(one, both)
    assert is_within(other, both)
    assert both == merged(other, one)
    assert set(both) == set(one) | set(other)
    for evidence_type, fields in both.items():
        parts = [part[evidence_type] for part in (one, other) if evidence_type in part]
        if None in parts:
            assert fields is None
        else:
            assert fields == frozenset().union(*(part or () for part in parts))


@given(_FIELDS, _FIELDS, _FIELDS)
def test_within_is_an_order(
    one: ConsentFields, two: ConsentFields, three: ConsentFields
) -> None:
    """Lying within is reflexive, antisymmetric and transitive."""
    assert is_within(one, one)
    if is_within(one, two) and is_within(two, one):
        assert one == two
    if is_within(one, two) and is_within(two, three):
        assert is_within(one, three)


@given(_FIELDS, _NAMES, _NAMES)
def test_covering_is_inherited_by_fewer_fields(
    fields: ConsentFields, asked: frozenset[str], fewer: frozenset[str]
) -> None:
    """Whoever allows some fields allows each part of them."""
    consent = a_consent(fields=fields)
    if consent.covers("birth@1", asked):
        assert consent.covers("birth@1", asked & fewer)
        assert consent.touches("birth@1", asked)
