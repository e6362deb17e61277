"""The demo's client, where a gateway goes in the middle of a request."""

from contextlib import closing
from urllib.parse import parse_qs

import httpx
import respx

from connectors.jose import SigningKey
from exchange.demo.portal import Client
from exchange.identity import TOKEN_PATH
from schemas.clock import SystemClock

FIRST, SECOND = "http://127.0.0.1:9", "http://127.0.0.1:10"


@respx.mock
def test_who_asks_another_gateway_for_a_token_signs_anew() -> None:
    """An assertion is good for once: the gateway that went may have taken it."""
    lost = respx.post(FIRST + TOKEN_PATH).mock(side_effect=httpx.ReadError)
    given = {"access_token": "token", "expires_in": 600}
    taken = respx.post(SECOND + TOKEN_PATH).respond(json=given)
    key, clock = SigningKey.from_seed(bytes(32)), SystemClock()
    with closing(Client([FIRST, SECOND], "portal", key, "portal", clock)) as client:
        token = client.token()
    sent = [route.calls.last.request.content for route in (lost, taken)]
    first, second = [parse_qs(body)[b"client_assertion"] for body in sent]

    assert "token" == token
    assert first != second
