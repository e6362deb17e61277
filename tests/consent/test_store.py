"""Consents in the store: asked for, given, refused, withdrawn, found."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given as given_that
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from consent import store
from consent.artefact import ConsentFields, ConsentState, is_within
from consent.rows import CONSENT, instant, micros
from consent.store import (
    AS_ASKED,
    ConsentRequest,
    Terms,
    ask,
    expire,
    find_by_person,
    find_for_decision,
    get,
    refuse,
    withdraw,
)
from schemas.errors import InvalidRequestError, NotFoundError, StateConflictError
from schemas.ids import CaseId, ConsentId
from tests.consent.examples import (
    ALL_FIELDS,
    CASE,
    DAY,
    FATHER,
    MOTHER,
    NOW,
    TICK,
    a_request,
    a_scope,
    give,
)

STATUS = frozenset({"status"})


def ids(*names: str) -> Callable[[], str]:
    """Return a source of the given ids."""
    rest = iter(names)
    return lambda: next(rest)


def asked(
    connection: Connection, request: ConsentRequest | None = None, name: str = "c1"
) -> ConsentId:
    """Ask, and return the id of the request."""
    return ask(connection, request or a_request(), NOW, ids(name)).consent.id


def test_what_is_asked_is_read_back_whole(connection: Connection) -> None:
    """The store returns the request exactly as it was made."""
    request = a_request(uses=3, fields={"marriage@1": STATUS, "birth@1": None})
    consent = ask(connection, request, NOW + TICK, ids("c1")).consent

    assert consent == get(connection, consent.id)
    assert request.scope == consent.scope
    assert request.fields == consent.fields
    assert ConsentState.ASKED is consent.state
    assert NOW + TICK == consent.asked_at
    assert request.expires_at == consent.expires_at
    assert (3, 1) == (consent.uses_left, consent.version)
    assert consent.given_at is None


def test_asking_twice_is_one_request(connection: Connection) -> None:
    """The same request again changes nothing, not even the version."""
    first = ask(connection, a_request(), NOW, ids("c1"))
    second = ask(connection, a_request(), NOW + DAY / 2, ids())

    assert first.consent == second.consent
    assert ((first.consent,), ()) == (first.changed, second.changed)


def test_asking_for_more_widens_the_open_request(connection: Connection) -> None:
    """What is new is added, and the version says that it has changed."""
    request = a_request(fields={"marriage@1": STATUS}, uses=1)
    ask(connection, request, NOW, ids("c1"))
    more = replace(
        request,
        fields={"marriage@1": frozenset({"registered_on"}), "birth@1": STATUS},
        uses=4,
        expires_at=NOW + 2 * DAY,
    )
    both = ask(connection, more, NOW, ids()).consent

    assert both.fields == {**ALL_FIELDS, "birth@1": STATUS}
    assert (4, NOW + 2 * DAY, 2) == (both.uses_left, both.expires_at, both.version)


@pytest.mark.parametrize(
    "other",
    [
        a_request(a_scope(role="guardian")),
        a_request(a_scope(person=MOTHER)),
        a_request(a_scope(requester="school")),
        a_request(a_scope(case=CaseId("case-2")), asked_in=CaseId("case-2")),
        a_request(a_scope(case=None)),
    ],
    ids=["role", "person", "requester", "case", "reach"],
)
def test_another_scope_is_another_request(
    connection: Connection, other: ConsentRequest
) -> None:
    """Requests of different scope are never merged."""
    first = asked(connection)
    second = asked(connection, other, "c2")

    assert ("c1", "c2") == (first, second)


def test_an_open_request_that_ran_out_makes_room(connection: Connection) -> None:
    """After its expiry a request is asked anew, under another id."""
    asked(connection)
    late = a_request(expires_at=NOW + 3 * DAY)
    second = ask(connection, late, NOW + DAY, ids("c2"))
    lapsed = get(connection, ConsentId("c1"))

    assert second.consent.id == "c2"
    assert ConsentState.EXPIRED is lapsed.state
    assert (lapsed, second.consent) == second.changed


def test_two_open_requests_of_one_scope_are_refused_by_the_engine(
    connection: Connection,
) -> None:
    """The table itself holds one open request for each scope."""
    asked(connection)
    row = dict(connection.execute(CONSENT.select()).mappings().one())
    with pytest.raises(IntegrityError):
        connection.execute(CONSENT.insert().values({**row, "id": "c2"}))


def test_a_given_consent_holds_as_asked(connection: Connection) -> None:
    """Giving keeps the terms and notes the time."""
    consent = give(connection, asked(connection), FATHER, 1, NOW + TICK)

    assert ConsentState.GIVEN is consent.state
    assert NOW + TICK == consent.given_at
    assert consent.fields == ALL_FIELDS
    assert consent.holds_at(NOW + TICK)


def test_a_person_can_give_less(connection: Connection) -> None:
    """Fields, uses and expiry may be narrowed by whoever gives."""
    terms = Terms(fields={"marriage@1": STATUS}, expires_at=NOW + TICK, uses=1)
    consent = give(connection, asked(connection), FATHER, 1, NOW, terms)

    assert consent.fields == {"marriage@1": STATUS}
    assert (NOW + TICK, 1) == (consent.expires_at, consent.uses_left)


@pytest.mark.parametrize(
    ("terms", "path"),
    [
        (Terms(fields={"birth@1": STATUS}), "/fields/birth@1"),
        (Terms(fields={"marriage@1": frozenset({"spouse"})}), "/fields/marriage@1"),
        (Terms(fields={"marriage@1": None}), "/fields/marriage@1"),
        (Terms(fields={"marriage@1": frozenset()}), "/fields/marriage@1"),
        (Terms(fields={}), "/fields"),
        (Terms(expires_at=NOW + 2 * DAY), "/expires_at"),
        (Terms(expires_at=NOW), "/expires_at"),
        (Terms(uses=4), "/uses"),
        (Terms(uses=0), "/uses"),
    ],
)
def test_nobody_can_give_more_than_was_asked(
    connection: Connection, terms: Terms, path: str
) -> None:
    """Terms that widen the request, or leave nothing of it, are named by their path."""
    request = asked(connection, a_request(uses=3))
    with pytest.raises(InvalidRequestError) as refused:
        give(connection, request, FATHER, 1, NOW, terms)

    assert [path] == [complaint.path for complaint in refused.value.complaints]
    assert ConsentState.ASKED is get(connection, request).state


def test_what_asks_for_no_field_is_given_with_none(connection: Connection) -> None:
    """A look-up that only compares takes nothing along: that can be given as asked."""
    nothing: ConsentFields = {"marriage@1": frozenset()}
    request = asked(connection, a_request(fields=nothing))
    consent = give(connection, request, FATHER, 1, NOW, Terms(fields=nothing))

    assert nothing == consent.fields


def test_nobody_gives_more_than_was_shown(connection: Connection) -> None:
    """A request that grew after it was shown must be shown again."""
    request = asked(connection)
    ask(connection, a_request(fields={"birth@1": STATUS}), NOW, ids())
    with pytest.raises(StateConflictError, match="changed since it was shown"):
        give(connection, request, FATHER, 1, NOW)


def test_a_request_is_not_given_after_its_last_instant(connection: Connection) -> None:
    """The last instant of a request is too late."""
    request = asked(connection)
    with pytest.raises(StateConflictError):
        give(connection, request, FATHER, 1, NOW + DAY)


@pytest.mark.parametrize("act", [refuse, withdraw])
def test_another_persons_consent_does_not_exist(
    connection: Connection, act: Callable[..., object]
) -> None:
    """Whoever is not the person learns nothing and changes nothing."""
    request = asked(connection)
    with pytest.raises(NotFoundError):
        act(connection, request, MOTHER, NOW)
    with pytest.raises(NotFoundError):
        give(connection, request, MOTHER, 1, NOW)
    with pytest.raises(NotFoundError):
        get(connection, request, MOTHER)
    with pytest.raises(NotFoundError):
        get(connection, ConsentId("none"), FATHER)

    assert ConsentState.ASKED is get(connection, request).state


def test_refusing_and_withdrawing_twice_is_once(connection: Connection) -> None:
    """A repeated answer changes nothing, so that it can be sent again safely."""
    refused = refuse(connection, asked(connection), FATHER, NOW)
    given = asked(connection, name="c2")
    give(connection, given, FATHER, 1, NOW)
    withdrawn = withdraw(connection, given, FATHER, NOW)

    assert refused == refuse(connection, refused.id, FATHER, NOW + TICK)
    assert withdrawn == withdraw(connection, given, FATHER, NOW + TICK)
    assert NOW == withdrawn.ended_at


TERMS = Terms(fields={"marriage@1": STATUS}, expires_at=NOW + DAY - TICK, uses=2)
"""Less than was asked for, in every way."""


def test_giving_twice_is_once(connection: Connection) -> None:
    """Whoever never heard the answer gets it as it stands, whatever was used since."""
    request = asked(connection, a_request(uses=3))
    first = store.give(connection, request, FATHER, 1, NOW, TERMS)
    giving = store.give(connection, request, FATHER, 1, NOW + TICK, TERMS)
    store.confirm(connection, request)
    connection.execute(CONSENT.update().values(uses_left=0))
    again = store.give(connection, request, FATHER, 1, NOW + TICK, TERMS)

    assert first == giving
    assert replace(first, state=ConsentState.GIVEN, uses_left=0) == again


@pytest.mark.parametrize(
    ("version", "terms"),
    [
        (1, AS_ASKED),
        (1, replace(TERMS, fields=None)),
        (1, replace(TERMS, expires_at=None)),
        (1, replace(TERMS, uses=1)),
        (2, TERMS),
        (0, TERMS),
    ],
)
def test_what_was_given_is_not_given_otherwise(
    connection: Connection, version: int, terms: Terms
) -> None:
    """Nobody is told that they gave what they did not."""
    request = asked(connection, a_request(uses=3))
    first = store.give(connection, request, FATHER, 1, NOW, TERMS)
    with pytest.raises(StateConflictError, match="otherwise"):
        store.give(connection, request, FATHER, version, NOW, terms)

    assert first == get(connection, request)


def test_what_is_over_is_not_given_again(connection: Connection) -> None:
    """Neither after its last instant nor when it was withdrawn."""
    request = asked(connection)
    give(connection, request, FATHER, 1, NOW)
    with pytest.raises(StateConflictError):
        give(connection, request, FATHER, 1, NOW + DAY)
    withdraw(connection, request, FATHER, NOW)
    with pytest.raises(StateConflictError):
        give(connection, request, FATHER, 1, NOW)


def test_answers_come_in_order(connection: Connection) -> None:
    """What is refused can't be given or withdrawn, what is open not withdrawn."""
    request = asked(connection)
    with pytest.raises(StateConflictError):
        withdraw(connection, request, FATHER, NOW)
    refuse(connection, request, FATHER, NOW)
    with pytest.raises(StateConflictError):
        give(connection, request, FATHER, 1, NOW)
    with pytest.raises(StateConflictError):
        withdraw(connection, request, FATHER, NOW)


def test_a_given_consent_is_not_refused(connection: Connection) -> None:
    """Whoever has given a consent withdraws it."""
    request = asked(connection)
    give(connection, request, FATHER, 1, NOW)
    with pytest.raises(StateConflictError):
        refuse(connection, request, FATHER, NOW)


def test_the_sweep_marks_what_ran_out_and_nothing_else(connection: Connection) -> None:
    """Only open and given consents that have reached their expiry are marked."""
    asked(connection)
    later = a_request(a_scope(role="guardian"), expires_at=NOW + 2 * DAY)
    asked(connection, later, "c2")
    gone = asked(connection, a_request(a_scope(case=None)), "c3")
    refuse(connection, gone, FATHER, NOW)
    marked = expire(connection, NOW + DAY)

    assert ["c1"] == [consent.id for consent in marked]
    assert [2] == [consent.version for consent in marked]
    assert [NOW + DAY] == [consent.ended_at for consent in marked]
    assert () == expire(connection, NOW + DAY)
    assert ConsentState.ASKED is get(connection, ConsentId("c2")).state


@pytest.mark.parametrize("act", [refuse, give])
def test_what_ran_out_ended_then_whenever_it_is_marked(
    connection: Connection, act: Callable[..., object]
) -> None:
    """The last instant is the same before the sweep and after it, given or not."""
    request = asked(connection)
    if act is give:
        give(connection, request, FATHER, 1, NOW)
    before = get(connection, request)
    expire(connection, NOW + 3 * DAY)
    after = get(connection, request)

    assert before.ended_by(NOW + DAY - TICK) is None
    assert NOW + DAY == before.ended_by(NOW + DAY) == before.ended_by(NOW + 3 * DAY)
    assert NOW + DAY == after.ended_at == after.ended_by(NOW + 3 * DAY)


def test_a_request_that_a_case_ends_has_ended_then(connection: Connection) -> None:
    """It did not run out: its last instant lies ahead."""
    request = asked(connection)
    (ended,) = store.end_requests(connection, CASE, NOW + TICK)

    assert ended == get(connection, request)
    assert NOW + TICK == ended.ended_by(NOW + TICK) == ended.ended_by(NOW + DAY)


def test_consents_are_found_by_person_and_for_a_decision(
    connection: Connection,
) -> None:
    """Each search returns its own and none of the others."""
    other_case = CaseId("case-2")
    asked(connection)
    asked(connection, a_request(a_scope(person=MOTHER, role="mother")), "c2")
    asked(connection, a_request(a_scope(case=other_case), asked_in=other_case), "c3")
    asked(connection, a_request(a_scope(requester="school")), "c4")

    assert {"c1", "c3", "c4"} == {c.id for c in find_by_person(connection, FATHER)}
    bearing = find_for_decision(connection, {FATHER, MOTHER}, "hospital", "newborn")
    assert {"c1", "c2", "c3"} == {c.id for c in bearing}
    assert () == find_for_decision(connection, (), "hospital", "newborn")
    assert () == find_for_decision(connection, {FATHER}, "hospital", "retirement")


def test_what_was_rolled_back_was_never_asked(engine: Engine) -> None:
    """The caller owns the transaction, and its end decides."""
    with engine.connect() as connection:
        asked(connection)
        connection.rollback()
    with engine.begin() as connection:
        found = find_by_person(connection, FATHER)

    assert () == found


@pytest.mark.parametrize(
    "wrong",
    [{"fields": {}}, {"uses": 0}, {"asked_in": CaseId("case-2")}],
)
def test_a_request_for_nothing_is_none(wrong: dict[str, object]) -> None:
    """A request without fields, uses or its own case can't be made."""
    with pytest.raises(ValueError, match="consent"):
        a_request(a_scope(), **wrong)


@given_that(st.integers(0, 4_000_000_000_000_000))
def test_instants_are_stored_exactly(microseconds: int) -> None:
    """An instant comes back as it went in, to the microsecond."""
    assert microseconds == micros(instant(microseconds))


_TERMS = st.builds(
    Terms,
    fields=st.none()
    | st.dictionaries(
        st.sampled_from(["marriage@1", "birth@1"]),
        st.none() | st.frozensets(st.sampled_from(["status", "registered_on", "x"])),
    ),
    expires_at=st.none() | st.integers(-1, 2).map(lambda days: NOW + days * DAY),
    uses=st.none() | st.integers(0, 4),
)


def test_whatever_the_terms_a_consent_only_narrows(engine: Engine) -> None:
    """Giving under any terms stays within the request, or is refused."""

    @given_that(_TERMS)
    def narrows(terms: Terms) -> None:
        with engine.connect() as connection:
            request = ask(connection, a_request(uses=3), NOW, ids("c1")).consent
            try:
                consent = give(connection, request.id, FATHER, 1, NOW, terms)
            except InvalidRequestError:
                return
            finally:
                connection.rollback()

            assert is_within(consent.fields, request.fields)
            assert NOW < consent.expires_at <= request.expires_at
            assert consent.uses_left in (1, 2, 3)

    narrows()
