"""`kill -9` of the gateway in mid-case: nothing is lost, and every case goes on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import JsonValue

from audit.engine_sqlite import copy_log
from audit.keys import load_keys
from audit.verify import verify_log
from exchange.demo.logs import compare
from exchange.demo.people import Birth
from exchange.demo.portal import Answer, Client, Json, PortalError
from exchange.demo.stage import PURPOSE
from tests.harness.gateway import Installation, an_installation
from tests.harness.patience import until

DEPARTMENTS = ("ga", "wj", "mz")
"""Police, health, civil affairs: what the others hold stays pending."""
CASES = 4
FETCHED = {"mother_identity", "birth_certificate", "household"}
"""Requirements that these departments meet without anybody's consent."""
SETTLED = {"retrieved", "verified", "reused"}
Openings = Sequence[Future[Json]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Run a gateway and three departments that take their time."""
    folder = tmp_path_factory.mktemp("killed")
    # What nobody can answer here need not be asked again and again.
    terms: dict[str, JsonValue] = {"retry_s": [0.25, 600]}
    with an_installation(
        folder, departments=DEPARTMENTS, delay_ms=150, settings=terms
    ) as place:
        yield place


def test_killed_gateway_loses_nothing_and_its_cases_go_on(
    place: Installation, tmp_path: Path
) -> None:
    """After each kill the cases settle what can be; each answer's record is kept."""
    births = [birth for birth in place.population.births if birth.father is not None]
    moments = (
        lambda _: sum(map(place.asked, DEPARTMENTS)) >= CASES,
        lambda openings: any(one.done() for one in openings),
    )
    answers: list[Json] = []
    for number, moment in enumerate(moments):
        chosen = births[number * CASES : (number + 1) * CASES]
        answers += kill_among(place, chosen, moment)
        place.start_gateway()
        answers += [follow(place, birth) for birth in chosen]
    log = tmp_path / "log.db"
    place.stop_gateway()  # so that no attempt is under way in the copy
    copy_log(place.stage.data_dir / "log.db", log)
    keys = load_keys(place.stage.data_dir / "keys" / "log")
    receipts = [one["note"].encode() for doc in answers for one in doc["receipts"]]
    verified = verify_log(
        log,
        keys.log.verifier.vkey,
        receipts=receipts,
        receipt_vkey=keys.receipt.verifier.vkey,
    )

    # INVARIANT (rule 1): no evidence left without its record, and none was lost.
    for document in answers:
        assert set(document["evidence"]) == {
            r["evidence"] for r in document["receipts"]
        }
    assert len(receipts) == verified.receipts > 0
    # Rule 2: what was cut off was recorded as ended too.
    assert 0 == verified.open_attempts
    # Rule 1 from the other side: no department was asked without a record.
    asked = {name: place.stage.places[name] for name in DEPARTMENTS}
    compared = compare(asked, log)
    assert 0 == compared.unproved
    assert compared.chains_hold
    assert compared.asked > 0


def kill_among(
    place: Installation, births: Sequence[Birth], moment: Callable[[Openings], bool]
) -> list[Json]:
    """Open cases all at once, kill the gateway at a moment; return what came before."""
    with ThreadPoolExecutor(len(births)) as pool:
        openings = [pool.submit(open_case, place.portal(), birth) for birth in births]
        until(lambda: moment(openings), "cases are under way")
        place.kill_gateway()
    return [one.result() for one in openings if not _is_cut_off(one)]


def open_case(portal: Client, birth: Birth) -> Json:
    """Open the case of a birth; opening it again answers with the same case."""
    body: dict[str, Any] = {
        "matter": "newborn@1",
        "purpose": PURPOSE,
        "actor": {"kind": "system", "id": "portal"},
        "subjects": {
            "mother": {"id": birth.mother.id, "name": birth.mother.name},
            "newborn": {"birth_date": birth.born_on.isoformat()},
        },
        "answers": {
            "parents_married": True,
            "joins": "mother",
            "child_name": birth.child_name,
            "bank_account": "6200000000000001",
            "phone": "000-0000-0000",
        },
    }
    headers = {"prefer": "wait=10", "idempotency-key": birth.certificate}
    return portal.post("/v1/cases", body, headers)


def follow(place: Installation, birth: Birth) -> Json:
    """Wait until all that can be fetched for a case is there, and return the case."""
    portal = place.portal()
    case = Answer(open_case(portal, birth)).id
    seen: list[Json] = []

    def is_there() -> bool:
        seen.append(portal.get(f"/v1/cases/{case}"))
        outcomes = Answer(seen[-1]).outcomes
        return FETCHED <= {
            name for name, one in outcomes.items() if one["outcome"] in SETTLED
        }

    until(is_there, "the case goes on")
    return seen[-1]


def _is_cut_off(request: Future[Json]) -> bool:
    """Tell whether a request got no answer, or one that the gateway could not end."""
    error = request.exception()
    assert error is None or isinstance(error, httpx.TransportError | PortalError)
    return error is not None
