"""The log of an operator who opens its entries to everybody."""

from pathlib import Path

from tests.harness.application import AUDITOR, a_site
from tests.harness.patience import until


def test_entries_may_be_opened_to_everybody(tmp_path: Path) -> None:
    """An operator may choose so; then caches on the way may keep them too."""
    with a_site(tmp_path, settings="log_bundles: everybody") as site:
        site.client(AUDITOR).get("/v1/audit/records")
        anyone = site.client(None)
        until(lambda: anyone.get("/log/checkpoint").is_success, "published")
        answer = anyone.get("/log/tile/entries/000.p/1")

    assert 200 == answer.status_code
    assert answer.headers["cache-control"].startswith("public")
