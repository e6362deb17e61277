"""What tests share: the application, one for each module, and an office of cases."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.exchange.card_office import OpenCards, a_card_office
from tests.exchange.newborn import Office, an_office, settle_in
from tests.harness.application import (
    AUDITOR,
    CITIZEN,
    OPERATOR,
    PORTAL,
    Site,
    a_site,
)
from tests.harness.postgres import Databases


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run the application for all tests of a module."""
    with a_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def either_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Run the application for a module, with all its stores on one engine each time."""
    settings = ""
    if request.param == "postgresql":
        databases: Databases = request.getfixturevalue("databases")
        settings = f"database_url: {databases.empty()}\n"
    with a_site(tmp_path_factory.mktemp("site"), settings=settings) as running:
        yield running


@pytest.fixture
def portal(site: Site) -> httpx.Client:
    """A portal."""
    return site.client(PORTAL)


@pytest.fixture
def citizen(site: Site) -> httpx.Client:
    """An app in which people answer."""
    return site.client(CITIZEN)


@pytest.fixture
def auditor(site: Site) -> httpx.Client:
    """An auditor."""
    return site.client(AUDITOR)


@pytest.fixture
def operator(site: Site) -> httpx.Client:
    """An operator."""
    return site.client(OPERATOR)


@pytest.fixture
async def office(
    tmp_path: Path, tables_url: str, vault_url: str
) -> AsyncIterator[Office]:
    """Open an office whose registers hold the family."""
    async with an_office(tmp_path, tables_url, vault_url) as office:
        settle_in(office.departments)
        yield office


@pytest.fixture
def open_cards(tmp_path: Path, tables_url: str, vault_url: str) -> OpenCards:
    """Return what opens an office of cards; it takes what may be handed in."""
    return partial(a_card_office, tmp_path, tables_url, vault_url)


@pytest.fixture
async def cards(open_cards: OpenCards) -> AsyncIterator[Office]:
    """Open an office of cards whose registers are empty."""
    async with open_cards() as office:
        yield office
