"""The departments: one bare ASGI process that signs every answer, for all variants.

It reads a look-up of the gateway, or the same claims as plain JSON from those who
sign nothing; it does not check who asks, since its own cost is not what is measured.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import orjson
from starlette.types import Receive, Scope, Send

from bench.asks import ASKS, REQUESTER, Ask
from bench.processes import serve
from connectors.jose import SigningKey, sign_compact
from connectors.protocol import EVIDENCE_MEDIA_TYPE, EVIDENCE_TYPE, subject_digest
from schemas.canonical import b64url, b64url_decode, sha256_b64url
from schemas.clock import Clock, SystemClock, to_rfc3339_ms

_HEADERS = [(b"content-type", EVIDENCE_MEDIA_TYPE.encode())]


@dataclass(frozen=True, slots=True)
class Register:
    """What one department holds, ready to be signed."""

    ask: Ask
    key: SigningKey
    digests: list[str]
    disclosures: str
    """All of them, joined as in an SD-JWT."""

    def answer(self, body: bytes, clock: Clock) -> bytes:
        """Return the signed answer to one look-up (`connectors.protocol`)."""
        claims = orjson.loads(_claims(body))
        now = clock.now()
        payload = {
            "iss": self.ask.provider,
            "aud": REQUESTER,
            "jti": claims["jti"],
            "iat": int(now.timestamp()),
            "lookup": claims["jti"],
            "evidence_type": self.ask.evidence_type,
            "subject": subject_digest(
                b64url_decode(claims["subject_salt"]), claims["keys"]
            ),
            "as_of": to_rfc3339_ms(now),
            "_sd_alg": "sha-256",
            "fields": {"_sd": self.digests},
        }
        token = sign_compact(orjson.dumps(payload), EVIDENCE_TYPE, self.key)
        return f"{token}~{self.disclosures}~".encode()


def _claims(body: bytes) -> bytes:
    return (
        body if body.startswith(b"{") else b64url_decode(body.split(b".")[1].decode())
    )


def register(ask: Ask, key: SigningKey) -> Register:
    """Return a department's register; salts may be fixed, as nobody is protected."""
    disclosures = [
        b64url(orjson.dumps([b64url(name.encode().ljust(16)[:16]), name, value]))
        for name, value in ask.values.items()
    ]
    digests = sorted(sha256_b64url(text.encode()) for text in disclosures)
    return Register(ask, key, digests, "~".join(disclosures))


class Departments:
    """All five, by path (ASGI)."""

    def __init__(self, registers: dict[str, Register], clock: Clock) -> None:
        self._registers = registers
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one look-up."""
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = bool(message.get("more_body"))
        answer = self._registers[scope["path"]].answer(body, self._clock)
        length = (b"content-length", str(len(answer)).encode())
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [*_HEADERS, length],
            }
        )
        await send({"type": "http.response.body", "body": answer})


def main() -> None:
    """Serve until told to stop: `python -m bench.department PORT FOLDER_OF_KEYS`."""
    port, keys = int(sys.argv[1]), Path(sys.argv[2])
    registers = {
        ask.path: register(ask, SigningKey.from_file(keys / f"{ask.provider}.pem"))
        for ask in ASKS
    }
    serve(Departments(registers, SystemClock()), port)


if __name__ == "__main__":
    main()
