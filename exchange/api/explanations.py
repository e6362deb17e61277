"""What a case would ask, of whom and on which basis, without asking anybody."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field, StringConstraints

from consent import store, uses
from exchange.api.dependencies import Gateway, PortalCaller, ThisGateway
from exchange.api.strict import StrictRoute
from exchange.case import stated_facts
from exchange.catalogue import Catalogue
from exchange.explain import explain
from exchange.explanation import Explanation
from exchange.intake import check_opening
from exchange.proposal import Circumstances, judge
from exchange.situation import Situation
from schemas.clock import day_in_beijing
from schemas.errors import Complaint, InvalidRequestError
from schemas.ids import CaseId
from schemas.matter import FactType
from schemas.model import Sent, Slug, VersionedId

router = APIRouter(route_class=StrictRoute, prefix="/v1/explanations", tags=["cases"])

Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class ExplainRequest(Sent):
    """A situation, as a case would be opened with it; nothing of it is kept."""

    matter: VersionedId
    purpose: Slug
    subjects: Annotated[Mapping[Slug, Mapping[Slug, Text]], Field(max_length=32)]
    """Facts by role, as for a case."""
    answers: Annotated[Mapping[Slug, bool | Text], Field(max_length=200)] = {}
    """Answers by question."""


@router.post("", response_model=Explanation)
async def explain_situation(
    body: ExplainRequest, caller: PortalCaller, gateway: ThisGateway
) -> Response:
    """Show the plan and every decision of a case, step by step; nobody is asked."""
    caller.require_purpose(body.purpose)
    matter = gateway.pack.matters.get(body.matter)
    if matter is None:
        raise InvalidRequestError(Complaint("/matter", "no such matter"))
    now = gateway.clock.now()
    today = day_in_beijing(now)
    check_opening(matter, body.purpose, body.subjects, body.answers, today)
    catalogue = gateway.planner.catalogue(body.matter)
    stated = {name: fact.value for name, fact in stated_facts(body.subjects).items()}
    situation = Situation(answers=body.answers, stated=stated)
    plan = gateway.planner.plan(body.matter, situation, today)
    circumstances = await _circumstances(
        gateway, catalogue, caller.requester, body, now
    )
    judged = judge(gateway.pack, plan, circumstances, now)
    content = explain(catalogue, gateway.pack, plan, judged).model_dump_json()
    return Response(content, media_type="application/json")


async def _circumstances(
    gateway: Gateway,
    catalogue: Catalogue,
    requester: Slug,
    body: ExplainRequest,
    now: datetime,
) -> Circumstances:
    """Return what bears on the decisions: consents, suspensions, quotas."""
    persons = {
        role: gateway.vault.person_ref(_namespace(catalogue, role), facts["id"])
        for role, facts in body.subjects.items()
        if "id" in facts
    }
    quotas = {
        grant.id: grant.quota
        for grant in gateway.pack.grants.values()
        if grant.requester == requester and grant.quota is not None
    }
    said = partial(
        store.find_for_decision,
        persons=tuple(persons.values()),
        requester=requester,
        matter=catalogue.matter.id,
    )
    return Circumstances(
        requester=requester,
        purpose=body.purpose,
        case=CaseId(gateway.new_id()),
        persons=persons,
        consents=await gateway.database.read(said),
        suspended=gateway.in_flight.suspended,
        used=await gateway.database.read(
            partial(uses.grant_uses, quotas=quotas, now=now)
        ),
    )


def _namespace(catalogue: Catalogue, role: Slug) -> str:
    """Return what kind of id a role has (as `OpenCase.namespace`)."""
    fact = catalogue.matter.roles[role].facts.get("id")
    return (FactType.CITIZEN_ID if fact is None else fact.type).value
