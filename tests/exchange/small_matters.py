"""Small matters, made by hand or by Hypothesis, for the tests of planning."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product

from hypothesis import strategies as st

from exchange.catalogue import Catalogue, compile_matter, expressions
from exchange.situation import Situation
from schemas.directory import ConnectorKind, Coverage, DataService, LegalReference
from schemas.evidence import (
    EvidenceField,
    EvidenceType,
    LookupKey,
    Mode,
    Sensitivity,
    SharingAttribute,
)
from schemas.expressions import compile_expression
from schemas.grammar import BOOLEAN, TEXT, ValueType
from schemas.matter import (
    Ask,
    EvidenceList,
    Fact,
    FactType,
    Matter,
    Need,
    Question,
    QuestionType,
    Requirement,
    Role,
    Step,
    SubjectKind,
)
from schemas.model import Name

TODAY = date(2026, 1, 20)
HERE = "990100"
NAME = Name(zh="名", en="name")
LAW = LegalReference(law=NAME, article="7")
QUESTIONS = ("q_one", "q_two", "q_three")
CONCEPTS = ("m.a", "m.b", "m.c", "f.a", "f.b", "f.c")
REGION = "m.region"


def an_evidence_type(
    name: str,
    keys: list[dict[str, str]],
    fields: dict[str, str | None],
    compared: frozenset[str] = frozenset(),
) -> EvidenceType:
    """Return an evidence type.

    Args:
        name: Its id.
        keys: Sets of keys: name → concept.
        fields: Name → concept, or None.
        compared: Fields that may only be compared.
    """
    return EvidenceType(
        id=name,
        version=1,
        name=NAME,
        modes=(Mode.RETRIEVE, Mode.VERIFY),
        keys=tuple(
            tuple(LookupKey(name=key, concept=concept) for key, concept in one.items())
            for one in keys
        ),
        fields={
            field: EvidenceField(
                name=NAME,
                json_schema={"type": "string"},
                concept=concept,
                comparison_only=field in compared,
            )
            for field, concept in fields.items()
        },
        sharing=SharingAttribute.CONDITIONAL,
        sensitivity=Sensitivity.ORDINARY,
        max_age=None,
    )


def an_ask(evidence_type: str, about: str = "m", **changes: object) -> Ask:
    """Return an ask that retrieves an evidence type about `m`."""
    plain = {"evidence_type": f"{evidence_type}@1", "about": about, "mode": "retrieve"}
    return Ask.model_validate({**plain, **changes})


def a_requirement(*lists: EvidenceList, **changes: object) -> Requirement:
    """Return a requirement of the only step."""
    plain = {"name": NAME, "steps": ("step",), "basis": LAW, "lists": lists}
    return Requirement.model_validate({**plain, **changes})


def a_list(*needs: Need, when: str | None = None) -> EvidenceList:
    """Return a list that wants all of `needs`."""
    return EvidenceList(when=when, all=needs)


def a_service(
    evidence_type: str,
    name: str | None = None,
    regions: tuple[str, ...] = (HERE,),
    from_date: date | None = None,
) -> DataService:
    """Return a data service that offers an evidence type."""
    return DataService(
        id=name or f"{evidence_type}_service",
        provider="police",
        evidence_type=f"{evidence_type}@1",
        connector=ConnectorKind.HTTP,
        coverage=Coverage(regions=regions, from_date=from_date),
    )


def a_matter(
    asks: Mapping[str, Ask],
    requirements: Mapping[str, Requirement],
    questions: Mapping[str, Question] | None = None,
    required: frozenset[str] = frozenset(),
) -> Matter:
    """Return a matter of the roles `m` and `f`.

    Args:
        asks: Its asks.
        requirements: Its requirements.
        questions: Its questions; None for three that are answered by yes or no.
        required: Concepts that must be stated when a case is opened.
    """
    yes_or_no = Question(name=NAME, type=QuestionType.BOOLEAN)
    return Matter(
        id="small",
        version=1,
        region=HERE,
        name=NAME,
        purposes={"testing": NAME},
        roles={role: _a_role(role, required) for role in ("m", "f")},
        questions=questions or dict.fromkeys(QUESTIONS, yes_or_no),
        asks=asks,
        requirements=requirements,
        steps={"step": Step(name=NAME, provider="police")},
        papers={},
        visits=(),
        source_limit=timedelta(days=7),
    )


def _a_role(role: str, required: frozenset[str]) -> Role:
    """Return a role with the facts `a` and `b`, which the portal may state."""
    return Role(
        name=NAME,
        kind=SubjectKind.PERSON,
        required=role == "m",
        applicant=role == "m",
        facts={
            fact: Fact(
                name=NAME, type=FactType.TEXT, required=f"{role}.{fact}" in required
            )
            for fact in ("a", "b")
        },
    )


def compiled(
    matter: Matter,
    evidence_types: list[EvidenceType],
    services: list[DataService] | None = None,
) -> Catalogue:
    """Compile a matter; services cover everything unless they are given."""
    if services is None:
        services = [a_service(one.id) for one in evidence_types]
    concepts = {REGION, *CONCEPTS}
    names: dict[str, ValueType] = dict.fromkeys(concepts, TEXT)
    for question, declared in matter.questions.items():
        is_yes_or_no = declared.type is QuestionType.BOOLEAN
        names[question] = BOOLEAN if is_yes_or_no else TEXT
    programs = {t: compile_expression(t, names) for t in expressions(matter)}
    types = {one.ref: one for one in evidence_types}
    return compile_matter(matter, types, services, programs.__getitem__, "digest")


@dataclass(frozen=True)
class Small:
    """A matter with all that a plan of it depends on."""

    matter: Matter
    evidence_types: list[EvidenceType]
    services: list[DataService]
    situation: Situation

    @property
    def catalogue(self) -> Catalogue:
        """The matter, compiled."""
        return compiled(self.matter, self.evidence_types, self.services)


_KEY_SETS = st.sampled_from(
    [
        ["self.a"],
        ["self.b"],
        ["other.b"],
        ["other.a"],
        ["self.c"],
        ["other.c"],
        ["self.a", "other.a"],
        ["self.a", "self.b"],
        ["other.b", "self.c"],
    ]
)
_TOLD = st.lists(
    st.sampled_from([None, "self.b", "self.c", "other.a", "other.b", "other.c"]),
    min_size=2,
    max_size=4,
)
_FIRST = st.sampled_from(["other.a", "other.b", "self.c", None])
_REGIONS = st.sampled_from([(HERE,)] * 8 + [("990000",), ("990200",)])
_CONDITIONS = st.sampled_from(
    [None] * 8
    + [
        "q_one",
        "!q_two",
        "q_one && q_two",
        "q_one || q_three",
        "(q_one && q_two) || (!q_one && q_three)",
    ]
)
_READS = ["m.b == 'x'", "m.c == 'x' || f.a == 'y'", "f.b == m.b"]
_CRITERIA = st.sampled_from([None] * 8 + _READS)
_ASKED_ABOUT = st.sampled_from(["m", "m", "f"])
_MODES = st.sampled_from([Mode.RETRIEVE] * 8 + [Mode.VERIFY])
_ASKED_REGIONS = st.sampled_from([None] * 8 + [REGION, "f.c"])
_STATED = st.sets(
    st.sampled_from(["m.a", "m.a", "m.b", "f.a", "m.c", REGION]), max_size=3
).map(lambda stated: stated | {"m.a"})
_ANSWERS = st.sampled_from(
    [
        dict(zip(QUESTIONS, said, strict=True))
        for said in product([True, False], repeat=3)
    ]
    + [{}, {"q_one": True}, {"q_two": False, "q_three": True}]
)


@st.composite
def _evidence_types(draw: st.DrawFn, name: str) -> EvidenceType:
    sets = draw(st.lists(_KEY_SETS, min_size=1, max_size=2, unique_by=tuple))
    fields = {f"field_{place}": told for place, told in enumerate(draw(_TOLD))}
    compared = frozenset(["field_1"] if draw(st.integers(0, 4)) == 0 else [])
    keys = [{f"key_{c.replace('.', '_')}": c for c in one} for one in sets]
    return an_evidence_type(name, keys, fields, compared)


@st.composite
def _asks(draw: st.DrawFn, evidence_types: list[EvidenceType]) -> Ask:
    about = draw(_ASKED_ABOUT)
    other = "f" if about == "m" else "m"
    return Ask(
        evidence_type=draw(st.sampled_from(evidence_types)).ref,
        about=about,
        mode=draw(_MODES),
        roles={"other": draw(st.sampled_from([other, other, about]))},
        region=draw(_ASKED_REGIONS),
    )


@st.composite
def _lists(draw: st.DrawFn, asks: list[str]) -> EvidenceList:
    wanted = st.lists(st.sampled_from(asks), min_size=1, max_size=2, unique=True)
    needs = [Need(ask=ask, fields=("field_0",)) for ask in draw(wanted)]
    return EvidenceList(when=draw(_CONDITIONS), all=tuple(needs))


@st.composite
def _requirements(draw: st.DrawFn, asks: list[str]) -> Requirement:
    if draw(st.integers(0, 6)) == 0:
        derive = draw(st.sampled_from(_READS))
        return a_requirement(derive=derive, when=draw(_CONDITIONS))
    lists = draw(st.lists(_lists(asks), min_size=1, max_size=3))
    return a_requirement(*lists, when=draw(_CONDITIONS), criterion=draw(_CRITERIA))


@st.composite
def small_matters(draw: st.DrawFn) -> Small:
    """Draw a matter of up to five asks and three requirements, and a situation."""
    types = [draw(_evidence_types(f"type_{n}")) for n in range(draw(st.integers(2, 5)))]
    first = an_evidence_type(
        "first", [{"key": "self.a"}], {"field_0": "self.b", "field_1": draw(_FIRST)}
    )
    types.append(first)
    asks = {f"ask_{n}": draw(_asks(types)) for n in range(draw(st.integers(2, 5)))}
    asks["first"] = an_ask("first")
    requirements = {
        f"requirement_{n}": draw(_requirements(sorted(asks)))
        for n in range(draw(st.integers(1, 3)))
    }
    services = [a_service(one.id, regions=draw(_REGIONS)) for one in types]
    values = {c: HERE if c == REGION else "x" for c in sorted(draw(_STATED))}
    barred = frozenset(["ask_1"] if draw(st.integers(0, 9)) == 0 else [])
    situation = Situation(draw(_ANSWERS), values, barred=barred)
    return Small(a_matter(asks, requirements), types, services, situation)


_LINKS = st.sampled_from(["self.b", "self.c", "f.a"])
_LINK_KEYS = st.sampled_from(
    [
        ["self.a"],
        ["self.b"],
        ["self.c"],
        ["f.a"],
        ["self.b", "self.c"],
        ["self.c", "f.a"],
    ]
)


@st.composite
def tangled_matters(draw: st.DrawFn) -> Small:
    """Draw a matter whose asks lead to one another in many ways, and nothing else.

    Here the fewest look-ups are often not the fewest waves.
    """
    types = [
        an_evidence_type("ask_0", [{"key": "self.a"}], {"field": "self.b"}),
        an_evidence_type("ask_1", [{"key": "self.b"}], {"field": "self.c"}),
    ]
    for place in range(2, draw(st.sampled_from([5, 5, 6]))):
        keys = [{"key": concept} for concept in draw(_LINK_KEYS)]
        fields: dict[str, str | None] = {"field": draw(_LINKS), "other": draw(_LINKS)}
        types.append(an_evidence_type(f"ask_{place}", keys, fields))
    asks = {one.id: an_ask(one.id) for one in types}
    wanted = draw(
        st.lists(st.sampled_from(sorted(asks)), min_size=2, max_size=4, unique=True)
    )
    requirement = a_requirement(a_list(*(Need(ask=ask) for ask in wanted)))
    services = [a_service(one.id) for one in types]
    situation = Situation({}, {"m.a": "x"})
    return Small(a_matter(asks, {"only": requirement}), types, services, situation)


def one_requirement(
    tellers: Mapping[str, tuple[str, str | None]], *lists: list[str]
) -> Small:
    """Return a matter of one requirement, of which only `m.a` is stated.

    Args:
        tellers: Asks, each with the concept it takes and the concept it tells.
        lists: The requirement's lists, each of asks.
    """
    types = [
        an_evidence_type(name, [{"key": taken}], {"field": told})
        for name, (taken, told) in tellers.items()
    ]
    asks = {name: an_ask(name) for name in tellers}
    requirement = a_requirement(
        *(a_list(*(Need(ask=ask, fields=("field",)) for ask in one)) for one in lists)
    )
    services = [a_service(one.id) for one in types]
    situation = Situation({}, {"m.a": "x"})
    return Small(a_matter(asks, {"only": requirement}), types, services, situation)


def more_lookups_by_the_first_list() -> Small:
    """Return a matter whose first list takes more look-ups than its second."""
    tellers = dict.fromkeys(["one", "two", "three"], ("m.a", None))
    return one_requirement(tellers, ["one", "two"], ["three"])


def more_waves_by_fewer_lookups() -> Small:
    """Return a matter in which one look-up more would save a wave."""
    tellers: dict[str, tuple[str, str | None]] = {
        "first": ("m.a", "m.b"),
        "second": ("m.b", "m.c"),
        "short_cut": ("m.a", "m.c"),
        "wanted": ("m.c", None),
    }
    return one_requirement(tellers, ["first", "second", "wanted"])


def fewer_waves_by_later_ids() -> Small:
    """Return a matter in which the smaller ids would take a wave more."""
    tellers: dict[str, tuple[str, str | None]] = {
        "first": ("m.a", "m.b"),
        "a_long_way": ("m.b", "m.c"),
        "z_short_way": ("m.a", "m.c"),
        "wanted": ("m.c", None),
    }
    return one_requirement(tellers, ["first", "wanted"])


def alike_but_for_ids() -> Small:
    """Return a matter with two sources that are alike but for their ids."""
    tellers: dict[str, tuple[str, str | None]] = {
        "a_source": ("m.a", "m.c"),
        "z_source": ("m.a", "m.c"),
        "wanted": ("m.c", None),
    }
    return one_requirement(tellers, ["wanted"])


def in_a_circle() -> Small:
    """Return a matter whose wanted asks wait for each other without a third one."""
    tellers: dict[str, tuple[str, str | None]] = {
        "one": ("m.b", "m.c"),
        "two": ("m.c", "m.b"),
        "way_in": ("m.a", "m.c"),
    }
    return one_requirement(tellers, ["one", "two"])


def told_for_comparison_alone() -> Small:
    """Return a matter in which a key is only told by a field that may be compared."""
    tellers: dict[str, tuple[str, str | None]] = {
        "register": ("m.a", "m.c"),
        "wanted": ("m.c", None),
    }
    small = one_requirement(tellers, ["wanted"])
    compared = an_evidence_type(
        "register", [{"key": "m.a"}], {"field": "m.c"}, frozenset(["field"])
    )
    types = [compared, *small.evidence_types[1:]]
    return Small(small.matter, types, small.services, small.situation)


def opened_by_an_answer() -> Small:
    """Return a matter whose only source of a key counts if a question is answered."""
    tellers: dict[str, tuple[str, str | None]] = {
        "register": ("m.a", "m.c"),
        "wanted": ("m.c", None),
    }
    small = one_requirement(tellers, ["wanted"])
    requirements = {
        **small.matter.requirements,
        "sometimes": a_requirement(a_list(Need(ask="register")), when="q_one"),
    }
    matter = a_matter(small.matter.asks, requirements)
    return Small(matter, small.evidence_types, small.services, small.situation)
