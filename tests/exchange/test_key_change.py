"""Changing the gateway's signing keys: prepared, then changed, and never lost."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.jose import SigningKey
from exchange.key_change import Changeable, change_key, older_keys, prepare_key
from exchange.keys import open_keys
from schemas.errors import SettingsError
from tests.harness.application import a_site
from tests.harness.commands import errand

ORIGIN = "errand.example/990100/log"
NOW = datetime(2026, 1, 9, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the keys of a gateway that has not run yet."""
    folder = tmp_path / "data" / "keys"
    open_keys(folder, ORIGIN, entropy=os.urandom)
    return folder


@pytest.mark.parametrize("which", Changeable)
def test_a_key_is_prepared_once_and_then_changed(
    folder: Path, which: Changeable
) -> None:
    """The present one signs until then; of it, the public part is kept."""
    before = _signing(folder, which)
    prepared = prepare_key(folder, which, os.urandom)
    again = prepare_key(folder, which, os.urandom)
    meanwhile = _signing(folder, which)
    changed = change_key(folder, which, NOW)
    [older] = older_keys(folder, which)

    assert prepared == again == changed == _signing(folder, which)
    assert before == meanwhile != changed
    assert (before.kid, NOW) == (older.thumbprint, older.valid_until)
    assert [] == [one for one in folder.rglob("*") if one.stat().st_mode & 0o077]


def test_without_one_that_was_prepared_nothing_is_changed(folder: Path) -> None:
    """Departments have to pin it first; a change that is given twice is told so."""
    prepare_key(folder, Changeable.LOOKUP, os.urandom)
    changed = change_key(folder, Changeable.LOOKUP, NOW)
    for which in Changeable:
        with pytest.raises(SettingsError, match=f"errand keys prepare {which}"):
            change_key(folder, which, NOW)

    assert changed == open_keys(folder, ORIGIN, entropy=None).lookup


def test_a_change_that_was_cut_off_is_given_again(folder: Path) -> None:
    """The public part was kept, and the key not yet replaced: it signs until then."""
    before = open_keys(folder, ORIGIN, entropy=None).token
    prepare_key(folder, Changeable.TOKEN, os.urandom)
    prepared = (folder / "next" / "token.pem").read_bytes()
    present = (folder / "token.pem").read_bytes()
    change_key(folder, Changeable.TOKEN, NOW)
    (folder / "next" / "token.pem").write_bytes(prepared)
    (folder / "next" / "token.pem").chmod(0o600)
    (folder / "token.pem").write_bytes(present)
    change_key(folder, Changeable.TOKEN, NOW)

    assert [before.kid] == [
        one.thumbprint for one in older_keys(folder, Changeable.TOKEN)
    ]
    assert prepared == (folder / "token.pem").read_bytes()


def test_a_damaged_older_key_is_named(folder: Path) -> None:
    """Receipts that it signed would not verify: nobody leaves it out silently."""
    prepare_key(folder, Changeable.TOKEN, os.urandom)
    change_key(folder, Changeable.TOKEN, NOW)
    [file] = (folder / "older").iterdir()
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"{file.name}` is no public key"):
        older_keys(folder, Changeable.TOKEN)


def test_what_an_older_key_signed_verifies_for_good(
    folder: Path, tmp_path: Path
) -> None:
    """The gateway publishes both; the commands say what is prepared and changed."""
    config = tmp_path / "errand.yaml"
    config.write_text(f"data_dir: data\nlog_origin: {ORIGIN}\n", encoding="utf-8")
    before = open_keys(folder, ORIGIN, entropy=None).token
    named = ("token", "--config", config)
    early = errand("keys", "change", *named)
    prepared = errand("keys", "prepare", *named)
    changed = errand("keys", "change", *named)
    now = open_keys(folder, ORIGIN, entropy=None).token
    with a_site(tmp_path) as site:
        published = site.client(None).get("/.well-known/jwks.json").json()["keys"]

    assert [2, 0, 0] == [one.status for one in (early, prepared, changed)]
    assert now.kid in prepared.stdout
    assert prepared.stdout == changed.stdout
    assert [now.kid, before.kid] == [one["kid"] for one in published]


def _signing(folder: Path, which: Changeable) -> SigningKey:
    keys = open_keys(folder, ORIGIN, entropy=None)
    return keys.lookup if which is Changeable.LOOKUP else keys.token
