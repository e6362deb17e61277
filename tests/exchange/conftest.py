"""The application that tests of the API share: one for each module."""

from collections.abc import Iterator

import httpx
import pytest

from tests.harness.application import (
    AUDITOR,
    CITIZEN,
    OPERATOR,
    PORTAL,
    Site,
    a_site,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run the application for all tests of a module."""
    with a_site(tmp_path_factory.mktemp("site")) as running:
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
