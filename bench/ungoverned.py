"""A: what an integrator would write in an afternoon. It asks, merges, and that's all.

Plain FastAPI and plain httpx with its default limits; `sniffio` is installed, which
makes httpx 1.6 times cheaper than it is without. Nothing is decided, signed, checked,
recorded or kept.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4  # noqa: TID251 - an integrator's afternoon

import httpx
from fastapi import FastAPI, Request
from pydantic import BaseModel

from bench.asks import ASKS, REQUESTER, Ask
from bench.processes import serve
from schemas.canonical import b64url


class CaseRequest(BaseModel):
    """Whom to ask about."""

    person: str


class CaseAnswer(BaseModel):
    """What the departments answered, by name."""

    evidence: dict[str, str]


def build(departments: str) -> FastAPI:
    """Return the application; `departments` is where they are, as a URL."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=departments) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/cases", status_code=201)
    async def open_case(case: CaseRequest, request: Request) -> CaseAnswer:
        client: httpx.AsyncClient = request.app.state.client

        async def fetch(ask: Ask) -> str:
            answer = await client.post(ask.path, json=question(ask, case.person))
            answer.raise_for_status()
            return answer.text

        answers = await asyncio.gather(*(fetch(ask) for ask in ASKS))
        names = (ask.name for ask in ASKS)
        return CaseAnswer(evidence=dict(zip(names, answers, strict=True)))

    return app


def question(ask: Ask, person: str) -> dict[str, object]:
    """Return the claims of a look-up, unsigned."""
    return {
        "jti": str(uuid4()),
        "requester": REQUESTER,
        "evidence_type": ask.evidence_type,
        "keys": {"id": person},
        "fields": list(ask.values),
        "subject_salt": b64url(bytes(16)),
    }


def main() -> None:
    """Serve until told to stop: `python -m bench.ungoverned PORT DEPARTMENTS_URL`."""
    serve(build(sys.argv[2]), int(sys.argv[1]), lifespan="on")


if __name__ == "__main__":
    main()
