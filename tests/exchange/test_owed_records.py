"""One act, one record: whoever acts at the same instant, and whatever is cut off."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, timedelta

import pytest
from hypothesis import given as given_that
from hypothesis import strategies as st
from sqlalchemy import Connection, text
from structlog.testing import capture_logs
from typing_extensions import override

from audit.record import Actor, Event, Kind, Subject, read_leaf
from audit.store import Appended, LogReader
from consent import mandate_store, uses
from consent.artefact import Consent, ConsentState
from consent.rules import Suspendable
from consent.store import AS_ASKED
from exchange import owed_records
from exchange.connecting import truncate_journal
from exchange.idempotency import RepeatKey
from exchange.mandating import Mandates
from exchange.owed_records import Finish, OwedRecords, change_of
from schemas.errors import (
    InvalidRequestError,
    LogUnavailableError,
    NotFoundError,
    StateConflictError,
)
from schemas.ids import CaseId, ConsentId, EventId, MandateId
from tests.consent.test_mandates import a_mandate
from tests.exchange.newborn import (
    FATHER,
    MOTHER,
    PORTAL_CALLER,
    Office,
    asking,
    deaf,
    deaf_to,
    owed_by,
    permissions,
)

pytestmark = pytest.mark.anyio
NOTHING = timedelta()
OLDEST = "00000000-0000-7000-8000-000000000000"


def mandates(office: Office) -> Mandates:
    """Return what gives and ends the mandates of an office."""
    return office.resolver.mandates


async def catch_up(office: Office) -> int:
    """Record what was cut off, as another gateway would."""
    people = permissions(office)
    return await people.owed.catch_up(NOTHING, people.finish)


async def asked(office: Office) -> Consent:
    """Open a case that asks the father, and return what it asks."""
    await office.open()
    found = await permissions(office).of_person(FATHER)
    return next(one for one in found if one.state is ConsentState.ASKED)


async def give(office: Office, consent: Consent) -> Consent:
    """Give a consent as it was asked."""
    people = permissions(office)
    return await people.give(consent.id, FATHER, consent.version, AS_ASKED)


async def refuse(office: Office, consent: Consent) -> Consent:
    """Refuse a consent."""
    return await permissions(office).refuse(consent.id, FATHER)


async def withdraw(office: Office, consent: Consent) -> Consent:
    """Withdraw a consent."""
    return await permissions(office).withdraw(consent.id, FATHER)


def said(office: Office, consent: Consent) -> list[str]:
    """Return the outcomes of the records of a consent, in the log's order."""
    return [x["outcome"] for x in office.leaves() if x["corr"] == consent.id]


def about(office: Office, consent: Consent) -> list[str]:
    """Return whom the records of a consent are about, in the log's order."""
    with closing(LogReader.open(office.folder / "log.db")) as reader:
        entries = list(reader.entries(0, reader.size()))
    return [
        one.subject_refs
        for one in entries
        if read_leaf(one.leaf).correlation == consent.id
    ]


def closings(office: Office) -> int:
    """Return how many records say that a case was closed."""
    return sum(kind == "case.closed" for kind, *_ in office.records())


async def state(office: Office, consent: Consent) -> ConsentState:
    """Return where a consent stands."""
    return (await permissions(office).read(ConsentId(consent.id), None)).state


async def at_once(acts: Sequence[Awaitable[object]]) -> list[object]:
    """Do all at once; return those that were not a conflict."""
    came = await asyncio.gather(*acts, return_exceptions=True)
    done = [one for one in came if not isinstance(one, StateConflictError)]
    assert not [one for one in done if isinstance(one, BaseException)], came
    return done


def an_event(office: Office, outcome: str) -> Event:
    """Return an event about the father."""
    return Event(
        id=EventId(office.resolver.new_id()),
        at=office.clock.now(),
        kind=Kind.CONSENT_CHANGED,
        outcome=outcome,
        subjects=(Subject("father", "citizen_id", FATHER),),
    )


# At the same instant.


@pytest.mark.parametrize("first", [give, refuse])
async def test_of_giving_and_refusing_at_once_the_log_says_what_holds(
    office: Office, first: Callable[[Office, Consent], Awaitable[Consent]]
) -> None:
    """One of the two is a conflict, and is not recorded."""
    consent = await asked(office)
    second = refuse if first is give else give
    done = await at_once([first(office, consent), second(office, consent)])
    holds = await state(office, consent)

    assert 1 == len(done)
    assert ["asked", holds.value] == said(office, consent)
    assert holds in (ConsentState.GIVEN, ConsentState.REFUSED)


async def test_a_consent_given_six_times_at_once_is_given_once(office: Office) -> None:
    """One record; each of them is told that it is given, once it is."""
    consent = await asked(office)
    done = await at_once([give(office, consent) for _ in range(6)])

    states = [one.state for one in done if isinstance(one, Consent)]
    assert [ConsentState.GIVEN] * 6 == states
    assert ["asked", "given"] == said(office, consent)


async def test_refusing_three_times_is_one_record(office: Office) -> None:
    """Whoever repeats it is told the same, and the log nothing."""
    consent = await asked(office)
    answers = [await refuse(office, consent) for _ in range(3)]

    assert [answers[0]] * 3 == answers
    assert ["asked", "refused"] == said(office, consent)


async def test_withdrawing_three_times_is_one_record(office: Office) -> None:
    """Also where it is done at once."""
    consent = await asked(office)
    await give(office, consent)
    answers = await at_once([withdraw(office, consent) for _ in range(3)])

    assert [answers[0]] * 3 == answers
    assert ["asked", "given", "withdrawn"] == said(office, consent)


async def test_ending_a_mandate_three_times_is_one_record(office: Office) -> None:
    """Also where it is done at once."""
    principal = office.vault.person_ref("citizen_id", MOTHER)
    mandate = a_mandate(principal=principal)
    await office.database.write(lambda c: mandate_store.give(c, mandate))
    ending = mandates(office)
    ends = [ending.revoke("app", MandateId(mandate.id), MOTHER) for _ in range(3)]
    answers = await at_once(ends)
    outcomes = [outcome for _, outcome, _, _ in office.records()]

    assert [answers[0]] * 3 == answers
    assert ["mandate_revoked"] == outcomes


async def test_a_case_closed_six_times_at_once_is_closed_once(office: Office) -> None:
    """One answer, one record; the others are told that it is closed."""
    case = await office.open()
    done = await at_once([office.close(case) for _ in range(6)])

    assert 1 == len(done)
    assert 1 == closings(office)


async def test_a_request_that_is_repeated_asks_once(office: Office) -> None:
    """The same thing under the same key: one record, also after its case is closed."""
    case = await office.open()
    repeat = RepeatKey(PORTAL_CALLER.requester, "key", "request")
    request = (PORTAL_CALLER, FATHER, asking(case, whole_matter=True), repeat)
    first = await permissions(office).ask(*request)
    again = await permissions(office).ask(*request)
    await office.close(case)
    late = await permissions(office).ask(*request)

    assert first == again == late
    assert ["asked"] == said(office, first)


async def test_asking_for_what_is_asked_already_is_no_record(office: Office) -> None:
    """Without a key as well: a record tells of a change, and of each once."""
    case = await office.open()
    people = permissions(office)
    first = await people.ask(PORTAL_CALLER, FATHER, asking(case), None)
    again = await people.ask(PORTAL_CALLER, FATHER, asking(case), None)
    wider = asking(case, fields={"household@1": frozenset({"household_no"})})
    more = await people.ask(PORTAL_CALLER, FATHER, wider, None)

    assert first == again
    assert first.id == more.id
    assert ["asked"] * 3 == said(office, first)  # by the case itself, then by two


@pytest.mark.parametrize("by_portal", [True, False])
async def test_a_request_that_ran_out_is_recorded_by_whoever_asks_anew(
    office: Office, *, by_portal: bool
) -> None:
    """It is over in that instant, so that no sweep will find it later."""
    lapsed = await asked(office)
    case = {"id": lapsed.asked_in}
    office.clock.instant = lapsed.expires_at
    if by_portal:
        late = asking(case, expires_at=lapsed.expires_at + timedelta(days=1))
        await permissions(office).ask(PORTAL_CALLER, FATHER, late, None)
    else:
        await office.resolve(case)
    [anew] = [
        one
        for one in await permissions(office).of_person(FATHER)
        if one.state is ConsentState.ASKED
    ]

    assert 0 == await permissions(office).expire()
    assert ["asked", "expired"] == said(office, lapsed)
    assert ["asked"] == said(office, anew)
    assert not by_portal or office.owed_in(case) <= 0


@pytest.mark.parametrize("is_given", [True, False])
async def test_whoever_was_asked_finds_that_it_has_run_out(
    office: Office, *, is_given: bool
) -> None:
    """Its record is about the same person, while the case that asked is open."""
    consent = await asked(office)
    if is_given:
        await give(office, consent)
    office.clock.advance(timedelta(days=400))
    swept = await permissions(office).expire()
    people = about(office, consent)

    assert 1 == swept
    assert "expired" == said(office, consent)[-1]
    assert {people[0]} == set(people) != {""}


async def test_of_a_case_that_is_closed_nobody_knows_whom_it_asked(
    office: Office,
) -> None:
    """What was asked for the whole matter runs out nevertheless, and is recorded."""
    case = await office.open()
    whole = asking(case, whole_matter=True)
    consent = await permissions(office).ask(PORTAL_CALLER, FATHER, whole, None)
    await office.close(case)
    office.clock.advance(timedelta(days=400))
    await permissions(office).expire()

    assert ["asked", "expired"] == said(office, consent)
    assert "" == about(office, consent)[-1] != about(office, consent)[0]


# Cut off between the act and its record.


async def test_a_consent_whose_giving_was_cut_off_holds_once_it_is_recorded(
    office: Office,
) -> None:
    """Nothing rests on it, nobody refuses it, and any gateway goes on with it."""
    consent = await asked(office)
    with deaf(office):
        with pytest.raises(LogUnavailableError):
            await give(office, consent)
        with pytest.raises(LogUnavailableError):
            await catch_up(office)
        with pytest.raises(StateConflictError):
            await refuse(office, consent)
    before = await state(office, consent)
    case = {"id": consent.asked_in}
    resolved = await office.resolve(case)
    caught = await catch_up(office)
    goes_on = await office.resolve(case)

    assert ConsentState.GIVING is before
    assert "consent_needed" == resolved["by_id"]["father_identity"]["outcome"]
    assert 1 == caught
    assert ConsentState.GIVEN is await state(office, consent)
    assert ["asked", "given"] == said(office, consent)
    assert "verified" == goes_on["by_id"]["father_identity"]["outcome"]


async def test_a_giving_that_was_cut_off_holds_when_it_comes_again(
    office: Office,
) -> None:
    """Whoever had no answer sends it again, and gets the one that there would be."""
    consent = await asked(office)
    with deaf(office):
        for _ in range(2):
            with pytest.raises(LogUnavailableError):
                await give(office, consent)
    again = await give(office, consent)
    left = await catch_up(office)

    assert ConsentState.GIVEN is again.state
    assert ["asked", "given"] == said(office, consent)
    assert 0 == left


async def test_a_giving_that_was_cut_off_is_withdrawn_at_once(office: Office) -> None:
    """It never holds; the log hears of both, in their order."""
    consent = await asked(office)
    with deaf(office):
        for act in (give, withdraw):
            with pytest.raises(LogUnavailableError):
                await act(office, consent)
        assert ConsentState.WITHDRAWN is await state(office, consent)
    await catch_up(office)

    assert ConsentState.WITHDRAWN is await state(office, consent)
    assert ["asked", "given", "withdrawn"] == said(office, consent)


async def test_the_log_hears_of_a_giving_before_its_withdrawal(office: Office) -> None:
    """Also where the giving was cut off, and the log is back for the withdrawal."""
    consent = await asked(office)
    with deaf(office), pytest.raises(LogUnavailableError):
        await give(office, consent)
    await withdraw(office, consent)
    left = await catch_up(office)

    assert ["asked", "given", "withdrawn"] == said(office, consent)
    assert ConsentState.WITHDRAWN is await state(office, consent)
    assert 0 == left


async def test_a_refusal_holds_while_the_log_is_down_and_is_recorded_later(
    office: Office,
) -> None:
    """Repeating it meanwhile changes nothing; its record comes once."""
    consent = await asked(office)
    with deaf(office):
        with pytest.raises(LogUnavailableError):
            await refuse(office, consent)
        await refuse(office, consent)
    recorded = [await catch_up(office), await catch_up(office)]

    assert [1, 0] == recorded
    assert ["asked", "refused"] == said(office, consent)


async def test_what_is_suspended_anew_stays_so_whatever_waits_for_its_record(
    office: Office,
) -> None:
    """It holds while the log is down, and so does its end not; the log hears in order.

    Repeating either changes nothing.
    """
    people, kind, name = permissions(office), Suspendable.GRANT, "newborn_marriage"
    held: list[frozenset[str]] = []
    with deaf(office):
        with pytest.raises(LogUnavailableError):
            await people.suspend(kind, name, "misuse", "operator")
        await people.suspend(kind, name, "misuse", "operator")
        held.append(office.in_flight.suspended)
        for _ in range(2):
            with pytest.raises(LogUnavailableError):
                await people.resume(kind, name, "operator")
        held.append(office.in_flight.suspended)
        with pytest.raises(LogUnavailableError):
            await people.suspend(kind, name, "again", "operator")
    caught = await catch_up(office)
    await people.suspend(kind, name, "again", "operator")
    held += [office.in_flight.suspended, await office.database.read(uses.suspended)]
    await people.resume(kind, name, "operator")
    with pytest.raises(NotFoundError):
        await people.resume(kind, name, "operator")
    outcomes = [outcome for _, outcome, _, _ in office.records()]

    assert [frozenset({f"grant:{name}"})] * 4 == held
    assert frozenset() == office.in_flight.suspended
    assert 3 == caught
    assert ["suspended", "resumed"] * 2 == outcomes


async def test_a_closing_that_was_cut_off_is_recorded_later(office: Office) -> None:
    """The case is closed and its key gone, whatever the log says; it hears once."""
    case = await office.open()
    with deaf(office), pytest.raises(LogUnavailableError):
        await office.close(case)
    unrecorded, stored = closings(office), office.stored(case)
    with pytest.raises(NotFoundError, match="destroyed"):
        office.vault.key(stored.key, stored.head.id)
    await catch_up(office)

    assert "closed" == (await office.read(case))["status"]
    assert office.owed(case) is None
    assert (0, 1) == (unrecorded, closings(office))


async def test_a_record_that_was_written_and_not_struck_out_is_written_once(
    office: Office,
) -> None:
    """Who was killed after the log had it leaves what another strikes out."""
    owed, event = owed_by(office), an_event(office, "refused")
    await office.database.write(lambda c: owed.note(c, event))
    await office.log.append([event])
    caught = [await catch_up(office), await catch_up(office)]

    assert [1, 0] == caught
    assert 1 == len(office.leaves())


async def test_an_owed_record_that_was_changed_is_in_nobodys_way(
    office: Office,
) -> None:
    """It is left where it lies, and named to the operators; the others are recorded."""
    owed = owed_by(office)
    events = [an_event(office, outcome) for outcome in ("refused", "withdrawn")]

    def note(connection: Connection) -> None:
        for event in events:
            owed.note(connection, event)
        changed = "UPDATE owed_record SET sealed = :sealed WHERE id = :id"
        values = {"sealed": bytes(64), "id": events[0].id}
        connection.execute(text(changed), values)

    await office.database.write(note)
    with capture_logs() as logs:
        await catch_up(office)

    assert ["withdrawn"] == [x["outcome"] for x in office.leaves()]
    assert [("owed_record_unusable", events[0].id)] == [
        (line["event"], line["record"]) for line in logs
    ]


async def test_what_nobody_can_record_is_in_nobodys_way(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short, of another version, or of a form that the log refuses: it is left."""
    owed = owed_by(office)
    unreadable = (b'{"kind": "of.tomorrow"}', b"[]", b"{")
    words = ("cut", "one", "two", "three", "two words", "good")
    cut, *others, refused, good = [an_event(office, word) for word in words]
    change = text("UPDATE owed_record SET sealed = :sealed WHERE id = :id")

    def note(connection: Connection) -> None:
        for event in (cut, *others, refused, good):
            owed.note(connection, event)
        connection.execute(change, {"sealed": b"", "id": cut.id})
        for event, written in zip(others, unreadable, strict=True):
            sealed = office.vault.seal_owed(event.id, written)
            connection.execute(change, {"sealed": sealed, "id": event.id})

    await office.database.write(note)
    monkeypatch.setattr(owed_records, "_MOST", 1)
    caught = [await catch_up(office), await catch_up(office)]

    assert [1, 0] == caught
    assert ["good"] == [x["outcome"] for x in office.leaves()]


async def test_what_was_cut_off_is_looked_for_whatever_happens(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No failure ends it: the next round records what is owed; how much is told."""
    owed, event = owed_by(office), an_event(office, "refused")
    await office.database.write(lambda c: owed.note(c, event))
    append, failures = office.log.append, [LookupError()]
    told: list[int] = []

    async def failing_once(events: Sequence[Event]) -> list[Appended]:
        if failures:
            raise failures.pop()
        return await append(events)

    monkeypatch.setattr(office.log, "append", failing_once)
    monkeypatch.setattr(owed_records, "_POLL_S", 0.0)
    keeping = asyncio.create_task(
        owed.keep_up(owed_records.finish_nothing, told.append)
    )
    async with asyncio.timeout(10):
        while 0 not in told and not keeping.done():  # noqa: ASYNC110 - rows tell
            await asyncio.sleep(0)
    is_running = not keeping.done()
    keeping.cancel()
    await catch_up(office)

    assert is_running
    assert [1, 1, 0] == told[:3]
    assert ["refused"] == [x["outcome"] for x in office.leaves()]


async def test_who_acted_has_a_while_to_record_it(office: Office) -> None:
    """Then others do, the oldest first; at once where a clock tells no age."""
    owed = owed_by(office)
    first, then = (an_event(office, word) for word in ("first", "then"))
    later = then._replace(at=first.at + timedelta(seconds=1))

    def note(connection: Connection) -> None:
        for event in (later, first):
            owed.note(connection, event)

    async def caught() -> int:
        return await owed.catch_up(timedelta(seconds=5), owed_records.finish_nothing)

    await office.database.write(note)
    office.clock.advance(timedelta(seconds=4))
    early = await caught()
    office.clock.advance(timedelta(seconds=3))
    due = await caught()
    ahead = an_event(office, "ahead")
    await office.database.write(lambda c: owed.note(c, ahead))
    office.clock.instant -= timedelta(hours=1)

    assert (0, 2, 1) == (early, due, await caught())
    assert ["first", "then", "ahead"] == [x["outcome"] for x in office.leaves()]


async def test_what_has_no_steps_is_recorded_as_it_happened(office: Office) -> None:
    """Of one thing, whichever row came first."""
    owed, event = owed_by(office), an_event(office, "first")
    first = event._replace(correlation="one")
    then = an_event(office, "then")._replace(
        correlation="one", at=event.at + timedelta(seconds=1), id=EventId(OLDEST)
    )
    await office.database.write(lambda c: [owed.note(c, one) for one in (then, first)])
    await owed.settle("one", owed_records.finish_nothing)

    assert ["first", "then"] == [x["outcome"] for x in office.leaves()]


async def test_a_gateway_that_starts_waits_for_nobody(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left is at hand, until a round has done all of it; then others act."""
    graces: list[timedelta] = []

    class Watched(OwedRecords):
        @override
        async def catch_up(self, grace: timedelta, finish: Finish) -> int:
            graces.append(grace)
            if len(graces) == 1:
                raise LogUnavailableError("the disk is full")
            if len(graces) == 3:
                raise asyncio.CancelledError
            return 0

    monkeypatch.setattr(owed_records, "_POLL_S", 0.0)
    watched = owed_by(office, Watched)
    with pytest.raises(asyncio.CancelledError):
        await watched.keep_up(owed_records.finish_nothing, lambda _: None)

    assert [NOTHING, NOTHING, timedelta(seconds=5)] == graces


async def test_the_record_says_how_far_a_consent_reaches(office: Office) -> None:
    """To one case, or to all of the matter."""
    case, people = await office.open(), permissions(office)
    for whole in (True, False):
        request = asking(case, whole_matter=whole)
        await people.ask(PORTAL_CALLER, FATHER, request, None)
    found = await people.of_person(FATHER)
    now, event = office.clock.now(), EventId("")
    told = [change_of(one, "asked", now, event, "", ()).details for one in found]

    assert [one.scope.case is None for one in found] == [
        one["whole_matter"] for one in told
    ]
    assert {True, False} == {one["whole_matter"] for one in told}


async def test_the_log_hears_in_order_also_when_a_clock_went_back(
    office: Office,
) -> None:
    """What happened to one consent has an order of its own."""
    consent = await asked(office)
    with deaf(office):
        with pytest.raises(LogUnavailableError):
            await give(office, consent)
        office.clock.instant -= timedelta(hours=1)
        with pytest.raises(LogUnavailableError):
            await withdraw(office, consent)
    await catch_up(office)

    assert ["asked", "given", "withdrawn"] == said(office, consent)


async def test_what_is_owed_of_the_same_thing_is_recorded_first(office: Office) -> None:
    """Who was asked while the log was down, and refuses when it is back."""
    case = await office.open()
    people = permissions(office)
    with deaf(office), pytest.raises(LogUnavailableError):
        await people.ask(PORTAL_CALLER, FATHER, asking(case), None)
    [consent] = await people.of_person(FATHER)
    await refuse(office, consent)

    assert ["asked", "asked", "refused"] == said(office, consent)


async def test_recording_an_act_leaves_what_came_after_it_to_others(
    office: Office,
) -> None:
    """Who records one act can't let hold what somebody else did next."""
    owed, first, then = (
        owed_by(office),
        an_event(office, "asked"),
        an_event(office, "given")._replace(correlation="one"),
    )
    first = first._replace(correlation="one")

    def note(connection: Connection) -> None:
        owed.note(connection, then, 2)
        owed.note(connection, first, 1)

    await office.database.write(note)
    await owed.record([first], owed_records.finish_nothing)
    before = [x["outcome"] for x in office.leaves()]
    await catch_up(office)

    assert ["asked"] == before
    assert ["asked", "given"] == [x["outcome"] for x in office.leaves()]


async def test_what_is_owed_of_many_things_is_recorded_before_what_came_next(
    office: Office,
) -> None:
    """Of each of them, as when many consents run out whose giving was cut off."""
    owed, names = owed_by(office), [f"consent-{n}" for n in range(260)]

    def note_all(connection: Connection, outcome: str, step: int) -> list[Event]:
        events = (an_event(office, outcome) for _ in names)
        of_each = zip(names, events, strict=True)
        named = [one._replace(correlation=name) for name, one in of_each]
        return [owed.note(connection, one, step) for one in named]

    await office.database.write(lambda c: note_all(c, "given", 1))
    expired = await office.database.write(lambda c: note_all(c, "expired", 2))
    await owed.record(expired, owed_records.finish_nothing)
    left = await catch_up(office)
    heard = [x["outcome"] for x in office.leaves()]

    assert ["given"] * 260 + ["expired"] * 260 == heard
    assert 0 == left


async def test_what_was_struck_out_is_in_no_file_once_the_journal_is_moved(
    office: Office,
) -> None:
    """A free page holds nothing of it, sealed though it was."""
    owed, event = owed_by(office), an_event(office, "refused")
    await office.database.write(lambda c: owed.note(c, event))
    query = text("SELECT sealed FROM owed_record")
    sealed = bytes(await office.database.read(lambda c: c.scalar(query)))[-100:]

    async def holding() -> list[str]:
        await office.database.maintain(truncate_journal)
        return [name for name, content in office.kept() if sealed in content]

    before = await holding()
    await owed.record([event], owed_records.finish_nothing)

    assert 1 == len(before)
    assert [] == await holding()


_WORDS = st.text(max_size=8)
_DETAILS = st.dictionaries(
    _WORDS, st.none() | st.booleans() | st.integers(0, 9) | st.lists(_WORDS)
)
_EVENTS = st.builds(
    Event,
    id=st.uuids().map(str).map(EventId),
    at=st.datetimes(timezones=st.just(UTC)),
    kind=st.sampled_from(Kind),
    outcome=_WORDS,
    subjects=st.lists(st.builds(Subject, _WORDS, _WORDS, _WORDS)).map(tuple),
    actor=st.none() | st.builds(Actor, _WORDS, _WORDS),
    case=st.none() | _WORDS.map(CaseId),
    details=_DETAILS,
    evidence=_DETAILS,
)


@given_that(_EVENTS)
def test_an_event_is_read_back_as_it_was_owed(event: Event) -> None:
    """Whoever records it later records the same."""
    assert event == owed_records._read(owed_records._written(event))


async def test_the_log_hears_of_a_suspension_before_its_end(office: Office) -> None:
    """Also where its record was cut off, and the log is back for the end."""
    people = permissions(office)
    service = Suspendable.SERVICE, "ga_household"
    with deaf(office), pytest.raises(LogUnavailableError):
        await people.suspend(*service, "file 7", "operator")
    await people.resume(*service, "operator")
    await catch_up(office)

    assert ["suspended", "resumed"] == [x["outcome"] for x in office.leaves()]
    assert frozenset() == office.in_flight.suspended


# What cases do by themselves.


async def test_the_log_hears_whom_a_case_asks_with_its_look_ups(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs no append of its own, and nothing of it is owed afterwards."""
    batches: list[list[str]] = []
    append = office.log.append

    async def appending(events: Sequence[Event]) -> list[Appended]:
        batches.append([event.outcome for event in events])
        return await append(events)

    monkeypatch.setattr(office.log, "append", appending)
    consent = await asked(office)
    heard = [batch for batch in batches if "asked" in batch]

    assert 1 == len(heard)
    assert "accepted" in heard[0]
    assert ["asked"] == said(office, consent)
    assert 0 == await catch_up(office)


async def test_that_a_case_has_asked_somebody_is_recorded_though_it_was_cut_off(
    office: Office,
) -> None:
    """The father can be shown the request from then on; the case goes on by itself."""
    with (
        deaf_to(office, lambda event: event.outcome == "asked"),
        pytest.raises(LogUnavailableError),
    ):
        await office.open()
    case = await office.only_case()
    [consent] = await permissions(office).of_person(FATHER)
    before = said(office, consent)
    await refuse(office, consent)
    await office.attempt(case)

    assert [] == before
    assert ["asked", "refused"] == said(office, consent)


@pytest.mark.parametrize("then", ["goes on", "is closed", "is closed unheard"])
async def test_a_case_that_was_cut_off_at_once_is_recorded_as_opened(
    office: Office, then: str
) -> None:
    """Once, and before all else, whatever becomes of the case."""
    with deaf(office):
        with pytest.raises(LogUnavailableError):
            await office.open()
        case = await office.only_case()
        if then == "is closed unheard":
            office.clock.instant -= timedelta(hours=1)
            with pytest.raises(LogUnavailableError):
                await office.close(case)
    if then == "goes on":
        await office.attempt(case)
        await office.resolve(case)
    if then == "is closed unheard":
        await catch_up(office)
    else:
        await office.close(case)
    kinds = [kind for kind, *_ in office.records()]

    assert ("case.opened", 1) == (kinds[0], kinds.count("case.opened"))
    assert "case.closed" == kinds[-1]


async def test_look_ups_of_a_case_that_is_closed_meanwhile_get_their_end(
    office: Office,
) -> None:
    """Those that a kill cut off: nobody waits for them, and no run takes them up."""
    case = await office.open_and_be_killed("household@1")
    await office.close(case)
    stored = office.stored(case)
    with pytest.raises(NotFoundError, match="destroyed"):
        office.vault.key(stored.key, stored.head.id)
    office.clock.advance(timedelta(minutes=2))
    came = await office.attempt(case)
    kinds = [kind for kind, *_ in office.records()]

    assert ("settled", None) == (came, office.owed(case))
    assert 0 < kinds.count("request.accepted") == kinds.count("request.ended")


# Requests and the case that asks.


async def test_requests_end_with_their_case(office: Office) -> None:
    """Nobody is asked any more, nothing can be given; that is recorded."""
    consent = await asked(office)
    case = {"id": consent.asked_in}
    await office.close(case)
    with pytest.raises(StateConflictError):
        await give(office, consent)
    with pytest.raises(StateConflictError):
        await permissions(office).ask(PORTAL_CALLER, FATHER, asking(case), None)

    assert ConsentState.EXPIRED is await state(office, consent)
    assert ["asked", "expired"] == said(office, consent)


async def test_a_request_for_the_whole_matter_outlives_its_case(office: Office) -> None:
    """Later cases may rest on it."""
    case = await office.open()
    whole = asking(case, whole_matter=True)
    people = permissions(office)
    consent = await people.ask(PORTAL_CALLER, FATHER, whole, None)
    await office.close(case)

    assert ConsentState.GIVEN is (await give(office, consent)).state


async def test_nobody_is_asked_in_a_role_in_which_the_case_knows_another(
    office: Office,
) -> None:
    """The father is he whom the certificate names."""
    case = await office.open()
    people = permissions(office)
    with pytest.raises(InvalidRequestError) as refused:
        await people.ask(PORTAL_CALLER, MOTHER, asking(case), None)

    assert ["/person/id"] == [one.path for one in refused.value.complaints]
    assert () == await people.of_person(MOTHER)
