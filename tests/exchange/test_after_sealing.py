"""What a sealed shard holds is found by the gateway that went on with the next one.

Here each test has its gateways to itself: a process has one at a time.
"""

from pathlib import Path

from tests.exchange.test_shards import BECAUSE, ORIGIN, seal
from tests.harness.application import AUDITOR, MOTHER, OPERATOR, PORTAL, a_site


def test_an_erasure_is_found_whichever_shard_recorded_it(tmp_path: Path) -> None:
    """Whoever waits for it to hold everywhere need not know of the rollover."""
    with a_site(tmp_path) as site:
        portal = site.client(PORTAL)
        case = site.open_case(portal)
        portal.post(f"/v1/cases/{case['id']}/close")
        somebody = {"namespace": "citizen_id", "id": MOTHER}
        body = {"subject": somebody, "reason": BECAUSE}
        erased = site.client(OPERATOR).post("/v1/audit/erasures", json=body).json()
    seal(tmp_path)
    for file in (tmp_path / "deployment").iterdir():
        file.unlink()
    (tmp_path / "deployment").rmdir()
    with a_site(tmp_path) as site:
        path = f"/v1/audit/erasures/{erased['event']}"
        found = site.client(OPERATOR).get(path)
        asked = {"kind": "key.shredded"}
        rows = site.client(AUDITOR).get("/v1/audit/records", params=asked).json()

    assert (200, erased) == (found.status_code, found.json())
    assert ORIGIN == erased["log"]
    assert [(erased["event"], ORIGIN, erased["index"])] == [
        (row["event"], row["log"], row["index"]) for row in rows["records"]
    ]
