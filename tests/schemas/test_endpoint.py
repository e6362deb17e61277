"""Endpoints: what is one, and that every pack with another is refused."""

import pytest

from schemas.endpoint import parse_endpoint
from schemas.errors import PackError, SettingsError
from schemas.validation import load_pack
from tests.schemas.packs import SMALL


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.01",
        "1.2.3.4.5",
        "example.0x1",
        "a..b",
        "-a.example",
        "ex%61mple.org",
        "exämple.org",
        "[::1%25eth0]",
        "[::1",
        "",
        "user@example.org",
        "example.org\\@other.org",
        "exa\tmple.org",
        "example.org:99999",
    ],
)
def test_a_host_that_is_neither_name_nor_plain_address_is_refused(host: str) -> None:
    """What two programs may read differently is not an endpoint."""
    with pytest.raises(SettingsError):
        parse_endpoint(f"http://{host}/lookups")


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "//a.example/", "a.example", "http://a.example/#f"]
)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    """Only absolute http and https URLs are endpoints."""
    with pytest.raises(SettingsError):
        parse_endpoint(url)


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("http://127.0.0.1/lookups", "http://127.0.0.1:80/lookups"),
        ("https://REG.example.org.", "https://reg.example.org:443/"),
        ("http://[0:0::1]:81/l?v=1", "http://[0:0::1]:81/l?v=1"),
    ],
)
def test_an_endpoint_is_used_as_it_was_checked(url: str, used: str) -> None:
    """The URL is put together again from the parts that were checked."""
    assert used == parse_endpoint(url).url


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://127.0.0.1:99999/lookups", "an endpoint is not a URL"),
        ("http://u:p@127.0.0.1:8101/lookups", "without user or fragment"),
        ("http://127.0.0.1:8101/lookups#x", "without user or fragment"),
        ("http://127.1:8101/lookups", "neither a DNS name nor a plain address"),
    ],
)
def test_an_endpoint_that_is_none_is_named_where_it_is_written(
    endpoint: str, expected: str
) -> None:
    """Where the deployment says it, its file is named; else that of the service."""
    was = '"http://127.0.0.1:8101/lookups"'
    said = SMALL["deployment.yaml"].replace(was, f'"{endpoint}"')
    service = f'{SMALL["services.yaml"]}    endpoint: "{endpoint}"\n'
    with pytest.raises(PackError) as added:
        load_pack(SMALL | {"deployment.yaml": said})
    with pytest.raises(PackError) as own:
        load_pack(
            SMALL | {"services.yaml": service, "deployment.yaml": "kind: deployment"}
        )

    (place,) = added.value.places
    assert place.startswith("deployment.yaml:3: /services/ga_residence/endpoint: ")
    assert expected in place
    (place,) = own.value.places
    assert place.startswith("services.yaml:8: /services/0/endpoint: ")
    assert expected in place
