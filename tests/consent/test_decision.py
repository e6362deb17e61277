"""The decision table, and what holds of every decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.artefact import Consent, ConsentState
from consent.decision import decide, examine
from consent.mandates import MANDATE_RULES
from consent.rules import Rule
from consent.verdict import (
    ConsentNeeded,
    Decision,
    Moment,
    Permit,
    ProposedLookup,
    Provisional,
    Refuse,
)
from schemas.directory import LawfulBasisKind, SharingGrant
from schemas.evidence import Mode
from schemas.ids import CaseId, ConsentId
from tests.consent.examples import (
    BY_CONSENT,
    CASE,
    DAY,
    DUTY,
    FATHER,
    MOTHER,
    NOW,
    TICK,
    a_consent,
    a_grant,
    a_lookup,
    a_quota,
    a_scope,
)

STATUS = frozenset({"status"})
ASKED, GIVING, GIVEN, REFUSED, WITHDRAWN, EXPIRED = ConsentState
BOTH_DUTY = {"mother": DUTY, "father": DUTY}
BOTH_ASKED = {"mother": BY_CONSENT, "father": BY_CONSENT}
MOTHERS = a_scope(person=MOTHER, role="mother")


@dataclass(frozen=True)
class Row:
    """One line of the table: what is so, and what is decided."""

    when: str
    then: type[Decision]
    rule: Rule
    lookup: ProposedLookup = field(default_factory=a_lookup)
    grants: tuple[SharingGrant, ...] = (a_grant(),)
    consents: tuple[Consent, ...] = ()
    suspended: frozenset[str] = frozenset()
    used: Mapping[str, int] = field(default_factory=dict)
    now: datetime = NOW


def _consent(**changes: object) -> tuple[Consent, ...]:
    return (a_consent(**changes),)  # type: ignore[arg-type] # the factory takes any field


def _scoped(**changes: object) -> tuple[Consent, ...]:
    return (a_consent(a_scope(**changes)),)


TABLE = (
    # Grants.
    Row("no grant", Refuse, Rule.NO_GRANT, grants=()),
    Row(
        "a grant to another requester",
        Refuse,
        Rule.NO_GRANT,
        grants=(a_grant(requester="school"),),
    ),
    Row(
        "a grant of another version of the type",
        Refuse,
        Rule.NO_GRANT,
        grants=(a_grant(evidence_type="marriage@2"),),
    ),
    Row(
        "the grant's last instant",
        Refuse,
        Rule.GRANT_EXPIRED,
        grants=(a_grant(valid_until=NOW),),
    ),
    Row(
        "the grant is for later",
        Refuse,
        Rule.GRANT_NOT_YET_VALID,
        grants=(a_grant(valid_from=NOW + TICK),),
    ),
    Row(
        "another matter",
        Refuse,
        Rule.MATTER_NOT_GRANTED,
        lookup=a_lookup(matter="retirement"),
    ),
    Row(
        "another purpose",
        Refuse,
        Rule.PURPOSE_NOT_GRANTED,
        lookup=a_lookup(purpose="statistics"),
    ),
    Row(
        "a mode that is not granted",
        Refuse,
        Rule.MODE_NOT_GRANTED,
        grants=(a_grant(modes=(Mode.VERIFY,)),),
    ),
    Row(
        "a field outside the grant",
        Refuse,
        Rule.FIELD_NOT_GRANTED,
        lookup=a_lookup(fields=frozenset({"status", "birth_weight"})),
        consents=_consent(fields={"marriage@1": None}),
    ),
    Row(
        "a role without a basis",
        Refuse,
        Rule.ROLE_NOT_GRANTED,
        grants=(a_grant({"mother": DUTY}),),
        consents=_consent(),
    ),
    Row(
        "a mandate",
        Refuse,
        Rule.BASIS_NOT_SUPPORTED,
        grants=(a_grant({"mother": LawfulBasisKind.MANDATE, "father": DUTY}),),
    ),
    Row(
        "an emergency",
        Refuse,
        Rule.BASIS_NOT_SUPPORTED,
        grants=(a_grant({"mother": DUTY, "father": LawfulBasisKind.EMERGENCY}),),
    ),
    # Suspensions.
    Row(
        "the requester is suspended",
        Refuse,
        Rule.REQUESTER_SUSPENDED,
        suspended=frozenset({"requester:hospital"}),
        grants=(),
    ),
    Row(
        "the provider is suspended",
        Refuse,
        Rule.PROVIDER_SUSPENDED,
        suspended=frozenset({"provider:civil_affairs"}),
    ),
    Row(
        "the service is suspended",
        Refuse,
        Rule.SERVICE_SUSPENDED,
        suspended=frozenset({"service:civil_marriage"}),
    ),
    Row(
        "the grant is suspended",
        Refuse,
        Rule.GRANT_SUSPENDED,
        suspended=frozenset({"grant:hospital_marriage"}),
    ),
    Row(
        "a service of the same name as the grant is suspended",
        Permit,
        Rule.CONSENT_GIVEN,
        suspended=frozenset({"service:hospital_marriage"}),
        consents=_consent(),
    ),
    # Quotas.
    Row(
        "the quota is used up",
        Refuse,
        Rule.QUOTA_USED_UP,
        grants=(a_grant(quota=a_quota(5)),),
        used={"hospital_marriage": 5},
        consents=_consent(),
    ),
    Row(
        "one look-up of the quota is left",
        Permit,
        Rule.CONSENT_GIVEN,
        grants=(a_grant(quota=a_quota(5)),),
        used={"hospital_marriage": 4},
        consents=_consent(),
    ),
    # Statutory duty.
    Row("duty alone", Permit, Rule.STATUTORY_DUTY, grants=(a_grant(BOTH_DUTY),)),
    Row(
        "duty, and a person not known yet",
        Permit,
        Rule.STATUTORY_DUTY,
        grants=(a_grant(BOTH_DUTY),),
        lookup=a_lookup(subjects={"mother": MOTHER, "father": None}),
    ),
    Row(
        "duty, and the person refused what nobody had to ask",
        Permit,
        Rule.STATUTORY_DUTY,
        grants=(a_grant(BOTH_DUTY),),
        consents=_consent(state=REFUSED),
    ),
    # Consent.
    Row("nobody was asked", ConsentNeeded, Rule.CONSENT_MISSING),
    Row(
        "the person is not known yet",
        Provisional,
        Rule.SUBJECT_NOT_YET_KNOWN,
        lookup=a_lookup(subjects={"mother": MOTHER, "father": None}),
    ),
    Row(
        "one person is not known yet, and another has not consented",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        grants=(a_grant(BOTH_ASKED),),
        lookup=a_lookup(subjects={"mother": MOTHER, "father": None}),
    ),
    Row("given", Permit, Rule.CONSENT_GIVEN, consents=_consent()),
    Row(
        "given for every case of the matter",
        Permit,
        Rule.CONSENT_GIVEN,
        consents=_scoped(case=None),
    ),
    Row(
        "given for every field that is granted",
        Permit,
        Rule.CONSENT_GIVEN,
        consents=_consent(fields={"marriage@1": None}),
    ),
    Row(
        "given at its last instant",
        Permit,
        Rule.CONSENT_GIVEN,
        consents=_consent(expires_at=NOW + TICK),
    ),
    Row(
        "one use left",
        Permit,
        Rule.CONSENT_GIVEN,
        consents=_consent(uses_left=1),
    ),
    Row(
        "no use left",
        ConsentNeeded,
        Rule.CONSENT_USED_UP,
        consents=_consent(uses_left=0),
    ),
    Row(
        "run out",
        ConsentNeeded,
        Rule.CONSENT_EXPIRED,
        consents=_consent(expires_at=NOW),
    ),
    Row(
        "run out and swept",
        ConsentNeeded,
        Rule.CONSENT_EXPIRED,
        consents=_consent(state=EXPIRED, expires_at=NOW - DAY),
    ),
    Row(
        "given for one field of two",
        ConsentNeeded,
        Rule.CONSENT_TOO_NARROW,
        consents=_consent(fields={"marriage@1": STATUS}),
    ),
    Row(
        "given for another evidence type",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_consent(fields={"birth@1": None}),
    ),
    Row("asked", ConsentNeeded, Rule.CONSENT_ASKED, consents=_consent(state=ASKED)),
    Row(
        "given, and not recorded yet",
        ConsentNeeded,
        Rule.CONSENT_ASKED,
        consents=_consent(state=GIVING),
    ),
    Row(
        "asked for less",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_consent(state=ASKED, fields={"marriage@1": STATUS}),
    ),
    Row(
        "asked, and the request has run out",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_consent(state=ASKED, expires_at=NOW),
    ),
    Row("refused", Refuse, Rule.CONSENT_REFUSED, consents=_consent(state=REFUSED)),
    Row(
        "one field of two refused",
        Refuse,
        Rule.CONSENT_REFUSED,
        consents=_consent(state=REFUSED, fields={"marriage@1": STATUS}),
    ),
    Row(
        "withdrawn",
        Refuse,
        Rule.CONSENT_WITHDRAWN,
        consents=_consent(state=WITHDRAWN),
    ),
    Row(
        "withdrawn, and given once more",
        Permit,
        Rule.CONSENT_GIVEN,
        consents=_consent(state=WITHDRAWN) + _consent(id=ConsentId("consent-2")),
    ),
    Row(
        "refused, and asked once more",
        ConsentNeeded,
        Rule.CONSENT_ASKED,
        consents=_consent(state=REFUSED)
        + _consent(id=ConsentId("consent-2"), state=ASKED),
    ),
    Row(
        "refused, later given, and run out since",
        ConsentNeeded,
        Rule.CONSENT_EXPIRED,
        consents=_consent(state=REFUSED, ended_at=NOW - 3 * DAY)
        + _consent(id=ConsentId("consent-2"), expires_at=NOW),
    ),
    Row(
        "given, run out, and refused since",
        Refuse,
        Rule.CONSENT_REFUSED,
        consents=_consent(expires_at=NOW)
        + _consent(id=ConsentId("consent-2"), state=REFUSED),
    ),
    Row(
        "both roles take consent, and one refuses",
        Refuse,
        Rule.CONSENT_REFUSED,
        grants=(a_grant(BOTH_ASKED),),
        consents=_consent(state=REFUSED),
    ),
    Row(
        "both roles take consent, and both gave it",
        Permit,
        Rule.CONSENT_GIVEN,
        grants=(a_grant(BOTH_ASKED),),
        consents=(a_consent(), a_consent(MOTHERS, id=ConsentId("consent-2"))),
    ),
    # Whose consent, for whom, for what.
    Row(
        "another person's consent",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_scoped(person="ref-other"),
    ),
    Row(
        "the person's consent in another role",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_scoped(role="guardian"),
    ),
    Row(
        "consent to another requester",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_scoped(requester="school"),
    ),
    Row(
        "consent to another matter",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_scoped(matter="retirement"),
    ),
    Row(
        "consent to another purpose",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_scoped(purpose="statistics"),
    ),
    Row(
        "consent to another case",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=_scoped(case=CaseId("case-2")),
    ),
    Row(
        "a refusal in another case",
        ConsentNeeded,
        Rule.CONSENT_MISSING,
        consents=(a_consent(a_scope(case=CaseId("case-2")), state=REFUSED),),
    ),
    # Several grants.
    Row(
        "a grant by duty beside one by consent",
        Permit,
        Rule.STATUTORY_DUTY,
        grants=(a_grant(), a_grant(BOTH_DUTY, id="by_duty")),
        consents=_consent(),
    ),
    Row(
        "the grant that came furthest tells why",
        Refuse,
        Rule.QUOTA_USED_UP,
        grants=(
            a_grant(id="first", valid_until=NOW),
            a_grant(id="second", quota=a_quota(1)),
            a_grant(id="third", purposes=("statistics",)),
        ),
        used={"second": 1},
    ),
    Row(
        "the parts of two grants make no third",
        Refuse,
        Rule.FIELD_NOT_GRANTED,
        grants=(
            a_grant(BOTH_DUTY, fields=("status",)),
            a_grant(BOTH_DUTY, id="other", fields=("registered_on",)),
        ),
    ),
)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.when)
def test_the_table_decides(row: Row) -> None:
    """Each line of the table is decided as it says, by the rule it says."""
    decision = decide(
        row.lookup, row.grants, row.consents, row.suspended, row.used, row.now
    )

    assert row.then is type(decision)
    assert row.rule is decision.rule


def test_the_table_knows_every_rule() -> None:
    """No rule is without a line of the table; mandates have a table of their own."""
    assert set(Rule) - MANDATE_RULES == {row.rule for row in TABLE}


def _decide(
    lookup: ProposedLookup | None = None,
    grants: tuple[SharingGrant, ...] = (a_grant(),),
    consents: tuple[Consent, ...] = (),
) -> Decision:
    return decide(lookup or a_lookup(), grants, consents, frozenset(), {}, NOW)


def test_a_permit_names_what_each_role_rests_on() -> None:
    """A permit states grant, version, and the basis and consent of each role."""
    decision = _decide(consents=(a_consent(),))

    assert isinstance(decision, Permit)
    assert ("hospital_marriage", 3) == (decision.grant, decision.grant_version)
    assert decision.kinds == {"mother": "statutory_duty", "father": "consent"}
    assert decision.bases["mother"].consent is None
    assert decision.bases["father"].consent == "consent-1"
    assert decision.consents == ("consent-1",)


def test_a_needed_consent_names_whose_and_the_open_request() -> None:
    """What is missing names role and person, and the request where one is open."""
    decision = _decide(
        grants=(a_grant(BOTH_ASKED),), consents=(a_consent(state=ASKED),)
    )

    assert isinstance(decision, ConsentNeeded)
    assert [(m.role, m.person, m.consent) for m in decision.missing] == [
        ("father", FATHER, "consent-1"),
        ("mother", MOTHER, None),
    ]


def test_a_refusal_names_the_fields() -> None:
    """A refusal for fields lists them, in order."""
    decision = _decide(a_lookup(fields=frozenset({"z", "status", "a"})))

    assert decision == Refuse(Rule.FIELD_NOT_GRANTED, "hospital_marriage", ("a", "z"))


def test_a_provisional_decision_names_the_roles_it_awaits() -> None:
    """What is decided again says for whom."""
    decision = _decide(a_lookup(subjects={"mother": MOTHER, "father": None}))

    assert isinstance(decision, Provisional)
    assert frozenset({"father"}) == decision.awaits


def test_counted_uses_are_spared() -> None:
    """Of several consents the one without a count is used, then the longest."""
    counted = a_consent(id=ConsentId("c"), uses_left=9, expires_at=NOW + 9 * DAY)
    short = a_consent(id=ConsentId("b"), expires_at=NOW + DAY)
    long = a_consent(id=ConsentId("a"), expires_at=NOW + 2 * DAY)
    decision = _decide(consents=(counted, short, long))

    assert isinstance(decision, Permit)
    assert decision.consents == ("a",)


def test_a_lookup_is_about_somebody() -> None:
    """A look-up without a subject can't be decided: nothing would forbid it."""
    with pytest.raises(ValueError, match="at least one role"):
        a_lookup(subjects={})


# What holds of every decision.


def _mostly(usual: object, *others: object) -> st.SearchStrategy[Any]:
    """Return the usual value in most draws, so that most worlds come to a decision."""
    return st.sampled_from((usual,) * 4 * max(1, len(others)) + others)


_STATES = st.sampled_from(ConsentState)
_INSTANTS = st.integers(-3, 3).map(lambda days: NOW + days * DAY)
_ALL = frozenset({"status", "registered_on"})
_FIELD_SETS = _mostly(_ALL, STATUS, frozenset({"registered_on"}), frozenset({"x"}))
_PERSONS = {"father": FATHER, "mother": MOTHER}


@st.composite
def _grants(draw: st.DrawFn) -> SharingGrant:
    kinds = st.sampled_from([DUTY, BY_CONSENT, BY_CONSENT])
    mandate = _mostly({}, {"mother": LawfulBasisKind.MANDATE})
    days = draw(_mostly((-3, 3), (0, 1), (-1, 0)))
    return a_grant(
        {role: draw(kinds) for role in _PERSONS} | draw(mandate),
        id=draw(st.sampled_from(["g1", "g2", "g3", "g4", "g5"])),
        fields=tuple(sorted(draw(_FIELD_SETS))),
        purposes=draw(_mostly(("newborn_registration",), ("statistics",))),
        valid_from=NOW + days[0] * DAY,
        valid_until=NOW + days[1] * DAY,
        quota=draw(_mostly(None, a_quota(2))),
    )


@st.composite
def _consents(draw: st.DrawFn, states: st.SearchStrategy[ConsentState]) -> Consent:
    role = draw(st.sampled_from(["father", "mother"]))
    scope = a_scope(
        person=draw(_mostly(_PERSONS[role], FATHER)),
        role=role,
        case=draw(_mostly(CASE, None, CaseId("case-2"))),
    )
    state = draw(states)
    changes: dict[str, object] = {
        "id": ConsentId(draw(st.uuids()).hex),
        "state": state,
        "fields": {"marriage@1": draw(st.none() | _FIELD_SETS)},
        "expires_at": draw(_mostly(NOW + 3 * DAY, NOW + DAY, NOW)),
        "uses_left": draw(_mostly(None, 0, 1)),
    }
    if state in (REFUSED, WITHDRAWN):
        changes["ended_at"] = draw(_INSTANTS)
    if state is GIVEN:
        changes["given_at"] = draw(_INSTANTS)
    return a_consent(scope, **changes)


@st.composite
def _lookups(draw: st.DrawFn) -> ProposedLookup:
    unknown = draw(_mostly({}, {"father": None}))
    alone = {
        role: _PERSONS[role]
        for role in draw(_mostly(("mother", "father"), ("father",)))
    }
    return a_lookup(fields=draw(_FIELD_SETS), subjects=alone | unknown)


@dataclass(frozen=True)
class World:
    """Everything that a decision takes."""

    lookup: ProposedLookup
    grants: tuple[SharingGrant, ...]
    consents: tuple[Consent, ...]
    suspended: frozenset[str]
    used: Mapping[str, int]
    now: datetime = NOW

    def decide(self) -> Decision:
        """Decide in this world."""
        return decide(
            self.lookup,
            self.grants,
            self.consents,
            self.suspended,
            self.used,
            self.now,
        )


_SUSPENSIONS = st.sampled_from(
    ["grant:g1", "provider:civil_affairs", "provider:police", "service:g2"]
)
_WORLDS = st.builds(
    World,
    lookup=_lookups(),
    grants=st.lists(_grants(), min_size=1, max_size=3, unique_by=lambda g: g.id).map(
        tuple
    ),
    consents=st.lists(_consents(_STATES), max_size=4).map(tuple),
    suspended=_mostly(
        frozenset(), frozenset({"grant:g1"}), frozenset({"provider:civil_affairs"})
    ),
    used=st.dictionaries(st.sampled_from(["g1", "g2"]), st.integers(0, 3)),
    now=_mostly(NOW, NOW + DAY, NOW - DAY),
)
_RANKS = {Permit: 3, Provisional: 2, ConsentNeeded: 1, Refuse: 0}


def _rank(world: World) -> int:
    return _RANKS[type(world.decide())]


@given(_WORLDS, st.randoms(use_true_random=False))
def test_order_never_matters(world: World, random: Random) -> None:
    """Grants, consents and subjects may come in any order."""
    grants, consents = list(world.grants), list(world.consents)
    subjects = list(world.lookup.subjects.items())
    for part in (grants, consents, subjects):
        random.shuffle(part)
    other = replace(
        world,
        grants=tuple(grants),
        consents=tuple(consents),
        lookup=replace(world.lookup, subjects=dict(subjects)),
    )

    assert world.decide() == other.decide()


@given(_WORLDS, _WORLDS)
def test_what_is_kept_of_a_look_up_is_decided_anew_each_time(
    first: World, then: World
) -> None:
    """Held against the grants once, it is decided by what is so at each moment."""
    known = {role: then.lookup.subjects.get(role) for role in first.lookup.subjects}
    second = replace(
        then, lookup=replace(first.lookup, subjects=known), grants=first.grants
    )
    kept = examine(first.lookup, first.lookup.subjects, first.grants)
    moments = [
        Moment(
            case=world.lookup.case,
            persons=world.lookup.subjects,
            consents=world.consents,
            suspended=world.suspended,
            used=world.used,
            now=world.now,
        )
        for world in (first, second)
    ]

    assert [first.decide(), second.decide()] == [kept.decide(one) for one in moments]


@given(_WORLDS, _consents(_STATES))
def test_no_consent_takes_a_permit_away(world: World, more: Consent) -> None:
    """Whatever else a person says, a permit stays one: only withdrawing ends it."""
    with_more = replace(world, consents=(*world.consents, more))
    if isinstance(world.decide(), Permit):
        assert isinstance(with_more.decide(), Permit)


@given(_WORLDS, _consents(st.just(GIVEN)))
def test_a_further_yes_never_makes_it_worse(world: World, more: Consent) -> None:
    """A given consent only ever opens."""
    assert _rank(world) <= _rank(replace(world, consents=(*world.consents, more)))


@given(_WORLDS)
def test_withdrawing_everything_leaves_no_permit_by_consent(world: World) -> None:
    """Once every consent is withdrawn, no permit rests on one."""
    withdrawn = tuple(replace(c, state=WITHDRAWN, ended_at=NOW) for c in world.consents)
    decision = replace(world, consents=withdrawn).decide()

    assert decision.rule is not Rule.CONSENT_GIVEN


@given(_WORLDS, st.integers(0, 3))
def test_removing_a_grant_never_opens(world: World, place: int) -> None:
    """Fewer grants never allow more."""
    fewer = world.grants[:place] + world.grants[place + 1 :]

    assert _rank(replace(world, grants=fewer)) <= _rank(world)


@given(_WORLDS, _SUSPENSIONS)
def test_suspending_never_opens(world: World, thing: str) -> None:
    """More suspensions never allow more."""
    more = replace(world, suspended=world.suspended | {thing})

    assert _rank(more) <= _rank(world)


@given(_WORLDS, _FIELD_SETS)
def test_asking_for_less_never_makes_it_worse(
    world: World, some: frozenset[str]
) -> None:
    """Fewer fields never allow less."""
    fewer = world.lookup.fields & some or world.lookup.fields
    less = replace(world, lookup=replace(world.lookup, fields=fewer))

    assert _rank(world) <= _rank(less)


@given(_WORLDS)
def test_a_permit_rests_on_what_it_says(world: World) -> None:
    """A permit's grant and consents hold now, and cover each field and role."""
    decision = world.decide()
    if not isinstance(decision, Permit):
        return
    grant = next(g for g in world.grants if g.id == decision.grant)
    by_id = {consent.id: consent for consent in world.consents}

    assert grant.valid_from <= world.now < grant.valid_until
    assert world.lookup.fields <= set(grant.fields)
    assert set(decision.bases) == set(world.lookup.subjects)
    for role, held in decision.bases.items():
        assert held.basis == grant.bases[role]
        assert (held.consent is not None) == (held.basis.kind is BY_CONSENT)
        if held.consent is not None:
            consent = by_id[held.consent]
            assert consent.scope.person == world.lookup.subjects[role]
            assert consent.state is GIVEN
            assert world.now < consent.expires_at
            assert consent.uses_left != 0


@given(_INSTANTS, st.integers(-2, 2))
def test_a_grant_holds_from_its_first_to_its_last_instant(
    edge: datetime, ticks: int
) -> None:
    """The first instant counts, the last does not."""
    at = edge + ticks * TICK
    begins = a_grant(BOTH_DUTY, valid_from=edge, valid_until=edge + 9 * DAY)
    ends = a_grant(BOTH_DUTY, valid_from=edge - 9 * DAY, valid_until=edge)
    after = decide(a_lookup(), (begins,), (), frozenset(), {}, at)
    before = decide(a_lookup(), (ends,), (), frozenset(), {}, at)

    assert isinstance(after, Permit) == (at >= edge)
    assert isinstance(before, Permit) == (at < edge)


@given(_WORLDS)
def test_no_decision_shows_a_person_in_its_text(world: World) -> None:
    """What a refusal names is a field, a role or a thing, never a person."""
    decision = world.decide()
    if isinstance(decision, Refuse):
        assert not {FATHER, MOTHER} & set(decision.names)
