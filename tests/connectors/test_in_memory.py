"""The in-memory department that other rooms test against tells the truth."""

import asyncio

import pytest
from pydantic import JsonValue

from connectors.lookup import Answered, Declined, Matched, NothingHeld
from schemas.errors import ConnectorFaultError, Fault, Layer
from schemas.errors import ConnectorUnavailableError as Unavailable
from schemas.evidence import Mode
from tests.connectors.examples import FATHER, MARRIAGE, MOTHER, FakeClock, a_request
from tests.fakes.connectors import InMemoryConnector

KEYS = {"person_id": MOTHER}
VALUES: dict[str, JsonValue] = {
    "status": "MARRIED",
    "spouse_id": FATHER,
    "children": [],
}


def a_department() -> InMemoryConnector:
    """Return an in-memory department that holds one marriage."""
    department = InMemoryConnector(FakeClock())
    department.hold(MARRIAGE.ref, KEYS, VALUES)
    return department


@pytest.mark.anyio
async def test_answers_by_record_through_the_real_guard() -> None:
    """The fields asked for come, checked, and nothing held is said so."""
    department = a_department()
    answer = await department.fetch(a_request())
    nothing = await department.fetch(a_request(keys={"person_id": FATHER}))

    assert isinstance(answer, Answered)
    assert {"status", "spouse_id"} == set(answer.evidence.disclosed.values)
    assert NothingHeld() == nothing


@pytest.mark.parametrize("stated", ["MARRIED", "DIVORCED"])
@pytest.mark.anyio
async def test_compares_as_a_real_department_does(stated: str) -> None:
    """A stated fact is matched with the record."""
    request = a_request(mode=Mode.VERIFY, match={"status": stated})
    answer = await a_department().fetch(request)

    assert isinstance(answer, Matched)
    assert (stated == "MARRIED") is answer.match


@pytest.mark.anyio
async def test_fails_as_it_is_told() -> None:
    """A scripted error or reply comes until it is taken back."""
    department = a_department()
    department.reply(MARRIAGE.ref, Unavailable("down", layer=Layer.SOURCE))
    with pytest.raises(Unavailable):
        await department.fetch(a_request())
    department.reply(MARRIAGE.ref, ConnectorFaultError(Fault.STALE, "old"))
    with pytest.raises(ConnectorFaultError):
        await department.fetch(a_request())
    department.reply(MARRIAGE.ref, Declined("ambiguous"))
    declined = await department.fetch(a_request())
    department.reply(MARRIAGE.ref, None)

    assert Declined("ambiguous") == declined
    assert isinstance(await department.fetch(a_request()), Answered)


@pytest.mark.anyio
async def test_waits_at_a_gate_until_it_is_opened() -> None:
    """A test decides when a department answers, without any clock."""
    department = a_department()
    gate = department.close_gate(MARRIAGE.ref)
    asking = asyncio.create_task(department.fetch(a_request()))
    await gate.asked.wait()
    waiting = asking.done()
    gate.opened.set()

    assert waiting is False
    assert isinstance(await asking, Answered)
    assert 1 == len(department.asked_about(MARRIAGE.ref))
