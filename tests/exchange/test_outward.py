"""What the gateway gives away by itself: its log in a store, for anybody to verify."""

from pathlib import Path

import pytest

from audit.objects import FolderObjects
from schemas.errors import SettingsError
from tests.harness.application import PORTAL, a_site
from tests.harness.commands import errand


def test_the_published_log_stands_in_its_store(tmp_path: Path) -> None:
    """When the gateway has stopped, the store has all of it, and verifies."""
    store, data = tmp_path / "store", tmp_path / "site"
    data.mkdir()
    with a_site(data, settings=f"tiles_url: {store.as_uri()}\n") as site:
        site.open_case(site.client(PORTAL))
        metrics = site.client(None).get("/metrics").text
        vkey = site.gateway.keys.log.log.verifier.vkey
        log = site.gateway.log
    verified = errand("audit", "verify", store, "--vkey", vkey, "--json")

    assert "errand_log_tiles_failing_seconds" in metrics
    assert (0, log.size) == (verified.status, verified.json["published"])
    assert "records" == verified.json["form"]


def test_a_store_of_another_history_stops_the_gateways_log(tmp_path: Path) -> None:
    """It is for people to find out which of the two is right."""
    store, data = tmp_path / "store", tmp_path / "site"
    data.mkdir()
    FolderObjects(store).swap("checkpoint", None, b"of something else")
    with a_site(data, settings=f"tiles_url: {store.as_uri()}\n") as site:
        [follower] = site.gateway.followers
        follower.tick()
        ready = site.client(None).get("/health/ready")

    assert "malformed checkpoint" == follower.failure
    assert (503, ["log"]) == (ready.status_code, ready.json()["failing"])


@pytest.mark.parametrize("url", ["http://example.com", "s3://", "file://host/x"])
def test_an_address_that_is_no_store_is_refused(tmp_path: Path, url: str) -> None:
    """With the name of the setting."""
    with (
        pytest.raises(SettingsError, match="tiles_url"),
        a_site(tmp_path, settings=f"tiles_url: {url}\n"),
    ):
        pass
