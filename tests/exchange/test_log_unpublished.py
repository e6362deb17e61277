"""A log whose next checkpoint is an hour away."""

from pathlib import Path

from audit.receipt import parse_proof
from tests.harness.application import AUDITOR, a_site
from tests.harness.patience import until


def test_a_record_without_checkpoint_has_a_receipt_and_a_problem(
    tmp_path: Path,
) -> None:
    """The receipt comes at once; the proof says when to ask again, and comes then."""
    with a_site(tmp_path, settings="checkpoint_every_s: 3600") as site:
        publisher = site.gateway.publisher
        # Its first round comes at the start, or a little later: the next in an hour.
        until(lambda: publisher.published > 0, "the first checkpoint")
        auditor = site.client(AUDITOR)
        query = {"kind": "audit.query"}
        auditor.get("/v1/audit/records", params=query)
        records = auditor.get("/v1/audit/records", params=query).json()["records"]
        path = f"/v1/receipts/{records[0]['event']}"
        receipt = auditor.get(path).json()
        early = auditor.get(f"{path}.tlog-proof", headers={"prefer": "wait=0"})
        publisher.tick()
        late = auditor.get(f"{path}.tlog-proof")

    assert receipt["receipt"]
    assert receipt["proof"] is None
    assert 404 == early.status_code
    assert early.json()["type"].endswith("/not-yet-published")
    assert "1" == early.headers["retry-after"]
    assert "no-store" == early.headers["cache-control"]
    assert 0 <= parse_proof(late.text).index
