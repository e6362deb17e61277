"""What the gateway gives away by itself: its log in a store, for anybody to verify."""

import shutil
import threading
from pathlib import Path

import pytest

from audit.objects import FolderObjects
from exchange.outward import make_stamper
from exchange.settings import parse_settings
from schemas.errors import SettingsError
from tests.harness.application import PORTAL, a_site
from tests.harness.commands import errand
from tests.harness.patience import PATIENCE_S, until
from tests.harness.tsa import an_authority


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
        log = site.gateway.log
        until(lambda: log.fault is not None, "the copy is compared")
        ready = site.client(None).get("/health/ready")

    assert "malformed checkpoint" == follower.failure
    assert (503, ["log"]) == (ready.status_code, ready.json()["failing"])
    assert {"log": "tiles: malformed checkpoint"} == ready.json()["reasons"]


def test_a_gateway_that_cannot_publish_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kind of error alone: the system's own words name files."""
    begun = threading.Semaphore(0)

    def fail() -> None:
        begun.release()
        raise OSError(28, "No space left on device", "log.db")

    with a_site(tmp_path) as site:
        monkeypatch.setattr(site.gateway.publisher, "publish", fail)
        # A round that was under way may still succeed: the publisher's own thread does
        # one after the other, so when the second begins the first has failed.
        for _ in range(2):
            assert begun.acquire(timeout=PATIENCE_S)
        ready = site.client(None).get("/health/ready")
        monkeypatch.undo()

    assert (503, ["publisher"]) == (ready.status_code, ready.json()["failing"])
    assert {"publisher": "OSError"} == ready.json()["reasons"]


@pytest.mark.parametrize("url", ["http://example.com", "s3://", "file://host/x"])
def test_an_address_that_is_no_store_is_refused(tmp_path: Path, url: str) -> None:
    """With the name of the setting."""
    with (
        pytest.raises(SettingsError, match="tiles_url"),
        a_site(tmp_path, settings=f"tiles_url: {url}\n"),
    ):
        pass


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed: no authority"
)
def test_checkpoints_are_stamped_and_stamps_served(tmp_path: Path) -> None:
    """Whoever reads the gateway's log verifies it with the authority's root."""
    data = tmp_path / "site"
    data.mkdir()
    with an_authority(tmp_path) as authority:
        settings = (
            f"anchor_url: {authority.at('good')}\nlog_bundles: everybody\n"
            f"anchor_certificates: {authority.root}\n"
        )
        with a_site(data, settings=settings) as site:
            case = site.open_case(site.client(PORTAL))
            [follower] = site.gateway.followers
            portal, anyone = site.client(PORTAL), site.client(None)
            event = case["receipts"][0]["event"] if case["receipts"] else None
            wait = {"prefer": "wait=5"}
            if event is not None:
                portal.get(f"/v1/receipts/{event}.tlog-proof", headers=wait)
            follower.tick()
            name = anyone.get("/log/anchors/list").text.splitlines()[0]
            kinds = [
                anyone.get(f"/log/anchors/{name}.{part}").headers["content-type"]
                for part in ("checkpoint", "tsq", "tsr")
            ]
            strange = anyone.get("/log/anchors/1.tsr")
            vkey = site.gateway.keys.log.log.verifier.vkey
            verified = errand(
                *("audit", "verify", f"{site.url}/log", "--vkey", vkey),
                *("--anchors", authority.root, "--json"),
            )

    assert [
        "text/plain; charset=utf-8",
        "application/timestamp-query",
        "application/timestamp-reply",
    ] == kinds
    assert (404, "no-store") == (strange.status_code, strange.headers["cache-control"])
    assert (0, True) == (verified.status, verified.json["anchored"]["count"] > 0)


def test_an_authority_without_certificates_is_refused(tmp_path: Path) -> None:
    """A stamp that nobody can verify is worth nothing."""
    with (
        pytest.raises(SettingsError, match="go together"),
        a_site(tmp_path, settings="anchor_url: https://tsa.example\n"),
    ):
        pass


def test_certificates_that_are_none_are_refused(tmp_path: Path) -> None:
    """With the name of the setting."""
    (tmp_path / "tsa.pem").write_text("nothing", encoding="ascii")
    settings = parse_settings(
        "anchor_url: https://tsa.example\nanchor_certificates: tsa.pem\n", {}, tmp_path
    )
    for reason in ("no certificates", "can't be read"):
        with pytest.raises(SettingsError, match=f"anchor_certificates.*{reason}"):
            make_stamper(settings)
        (tmp_path / "tsa.pem").unlink(missing_ok=True)
