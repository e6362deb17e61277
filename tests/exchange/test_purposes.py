"""A case answers only to a token that carries the case's purpose."""

from typing import Any

import httpx
import pytest

from tests.harness.application import FATHER, OPENING, OTHER_PORTAL, Site

_ROUTES: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "open": ("POST", "/v1/cases", OPENING),
    "read": ("GET", "/v1/cases/{case}", None),
    "add": ("POST", "/v1/cases/{case}/answers", {"answers": {"joins": "mother"}}),
    "resolve": ("POST", "/v1/cases/{case}/resolve", None),
    "close": ("POST", "/v1/cases/{case}/close", None),
    "follow": ("GET", "/v1/cases/{case}/events", None),
    "ask consent": (
        "POST",
        "/v1/consents",
        {
            "person": {"id": FATHER},
            "role": "father",
            "fields": {"household@1": ["household_no"]},
        },
    ),
}


@pytest.mark.parametrize("name", _ROUTES)
def test_a_token_of_another_purpose_is_refused(site: Site, name: str) -> None:
    """The requester's own case is out of reach with its token for something else."""
    case = site.open_case(site.client(OTHER_PORTAL))["id"]
    method, path, body = _ROUTES[name]
    if name == "ask consent":
        body = {**(body or {}), "case": case}
    token = site.token(OTHER_PORTAL, "portal:statistics").json()["access_token"]
    headers = {"authorization": f"Bearer {token}", "prefer": "wait=0"}
    with site.client(OTHER_PORTAL).stream(
        method, path.format(case=case), json=body, headers=headers
    ) as answer:
        status = answer.status_code
        kind = _problem(answer) if status >= httpx.codes.BAD_REQUEST else ""

    after = site.client(OTHER_PORTAL).get(f"/v1/cases/{case}").json()
    assert (403, "purpose-not-allowed") == (status, kind)
    assert "closed" != after["status"]


def _problem(answer: httpx.Response) -> str:
    answer.read()
    kind: str = answer.json()["type"].rpartition("/")[2]
    return kind
