"""What a pack's parts say about each other, checked when the pack is loaded.

Everything that is named must be declared, everything that is declared must be of use,
and nothing may be left that can only fail while a case runs: keys that can never be
filled, steps in a circle, a condition over facts that nobody fetches.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import jsonschema_rs
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import JsonValue

from schemas.canonical import b64url_decode, canonical_plain, sha256_b64url
from schemas.directory import (
    DataService,
    Provider,
    PublicKey,
    Requester,
    SharingGrant,
)
from schemas.evidence import EvidenceField, EvidenceType, Mode
from schemas.expressions import (
    BOOLEAN,
    TEXT,
    ExpressionError,
    Kind,
    Program,
    Scalar,
    ValueType,
    compile_expression,
)
from schemas.matter import Ask, Matter, Need, Question, QuestionType, Requirement
from schemas.model import Concept, Expression, Model, Slug, VersionedId
from schemas.packtext import Document, pointer, walk

T = TypeVar("T", bound=Model)
Programs = dict[tuple[VersionedId, Expression], Program]

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Declared(Generic[T]):
    """A thing, and where it is declared."""

    thing: T
    document: Document
    where: str
    """Its JSON Pointer in the document."""

    def place(self, where: str, message: str) -> str:
        """Return the place of a part of it, as `file:line: path: message`."""
        return self.document.place(self.where + where, message)

    def changed(self, **fields: object) -> "Declared[T]":
        """Return it with some fields changed."""
        changed = self.thing.model_copy(update=fields)
        return Declared(changed, self.document, self.where)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that the files of a pack declare, by id."""

    providers: dict[Slug, Declared[Provider]] = field(default_factory=dict)
    evidence_types: dict[VersionedId, Declared[EvidenceType]] = field(
        default_factory=dict
    )
    services: dict[Slug, Declared[DataService]] = field(default_factory=dict)
    requesters: dict[Slug, Declared[Requester]] = field(default_factory=dict)
    grants: dict[Slug, Declared[SharingGrant]] = field(default_factory=dict)
    matters: dict[VersionedId, Declared[Matter]] = field(default_factory=dict)


class Complain(Protocol):
    """Notes that a part of what is being checked is wrong."""

    def __call__(self, *path: str | int, because: str) -> None:
        """Note it, naming the part by its path."""
        ...


def check(catalogue: Catalogue) -> tuple[list[str], Programs]:
    """Return every place that is wrong, and the compiled conditions of all matters."""
    wrong: list[str] = []
    programs: Programs = {}
    for provider in catalogue.providers.values():
        _check_keys(provider.thing.keys, _complain(wrong, provider))
    for requester in catalogue.requesters.values():
        _check_keys(requester.thing.keys, _complain(wrong, requester))
    for kind in catalogue.evidence_types.values():
        _check_evidence_type(kind.thing, _complain(wrong, kind))
    for service in catalogue.services.values():
        _check_service(service.thing, catalogue, _complain(wrong, service))
    if wrong:
        return wrong, programs  # what stands on these would only repeat it
    for matter in catalogue.matters.values():
        complain = _complain(wrong, matter)
        checker = _MatterCheck(matter.thing, catalogue, complain)
        checker.check()
        programs.update(
            ((matter.thing.ref, text), program)
            for text, program in checker.programs.items()
        )
    for grant in catalogue.grants.values():
        _check_grant(grant.thing, catalogue, _complain(wrong, grant))
    return wrong, programs


def _complain(wrong: list[str], declared: Declared[Any]) -> Complain:
    """Return how to complain of a part of what is declared."""

    def complain(*path: str | int, because: str) -> None:
        wrong.append(declared.place(pointer(*path), because))

    return complain


def _check_declared(
    name: str, declared: Iterable[str], what: str, complain: partial[None]
) -> None:
    """Complain unless something of this name is declared."""
    if name not in declared:
        complain(because=f"no {what} `{name}` is declared")


# --- keys, evidence types, services, grants --------------------------------------


def _check_keys(keys: Iterable[PublicKey], complain: Complain) -> None:
    """Check that pinned keys are public Ed25519 keys with their own thumbprints."""
    for index, key in enumerate(keys):
        here = partial(complain, "keys", index)
        jwk = key.jwk
        if "d" in jwk:
            here("jwk", "d", because="a private key: it must not be here")
        if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
            here("jwk", because="must be an Ed25519 key (RFC 8037)")
            continue
        if not _is_key(jwk.get("x")):
            here("jwk", "x", because="must be 32 bytes in base64url")
        if not isinstance(jwk.get("kid"), str):
            here("jwk", because="`kid` missing")
        named = {"crv": "Ed25519", "kty": "OKP", "x": str(jwk.get("x"))}
        if sha256_b64url(canonical_plain(named)) != key.thumbprint:
            here("thumbprint", because="is not that of `jwk` (RFC 7638)")
        if key.valid_until is not None and key.valid_until <= key.valid_from:
            here("valid_until", because="must be later than `valid_from`")


def _is_key(x: JsonValue) -> bool:
    """Tell whether `x` is a public key's 32 bytes in base64url."""
    try:
        return isinstance(x, str) and len(b64url_decode(x)) == _KEY_BYTES
    except ValueError:
        return False


def _check_evidence_type(kind: EvidenceType, complain: Complain) -> None:
    """Check keys, fields and their schemas."""
    if not kind.modes:
        complain("modes", because="at least one mode is needed")
    if not kind.keys:
        complain("keys", because="at least one set of keys is needed")
    for index, key_set in enumerate(kind.keys):
        if not key_set:
            complain("keys", index, because="a set of keys must not be empty")
        names = Counter(key.name for key in key_set)
        for name, count in names.items():
            if count > 1:
                complain("keys", index, because=f"key `{name}` is there twice")
    sound = True
    for name, one in kind.fields.items():
        sound &= _check_field(one, partial(complain, "fields", name))
    if sound:
        try:
            compile_fields(kind)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            complain("fields", because=f"can't be compiled: {str(error)[:200]}")


def _check_field(one: EvidenceField, complain: Complain) -> bool:
    """Check one field's JSON Schema, and tell whether it is sound."""
    schema = dict(one.json_schema)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        complain("json_schema", *error.absolute_path, because=error.message[:200])
        return False
    for where, part in walk(schema):
        if where.endswith(("/$ref", "/$dynamicRef")) or where == "/$id":
            complain("json_schema", because=f"`{part}`: references are not followed")
            return False
    if not {"type", "enum", "const"} & schema.keys():
        complain("json_schema", because="`type`, `enum` or `const` is needed")
        return False
    if one.concept is not None and value_type(one) is None:
        complain(
            "json_schema",
            because="a concept's value must be text, an integer or true or false",
        )
    return True


def value_type(one: EvidenceField) -> ValueType | None:
    """Return the type of a field's value for conditions; None if it can have none."""
    values = _values(one)
    if values is not None:
        kinds = {_kind(value) for value in values}
        kind = kinds.pop() if len(kinds) == 1 else None
    else:
        named = one.json_schema.get("type")
        names = named if isinstance(named, list) else [named]
        kinds = {_JSON_KINDS.get(str(name)) for name in names if name != "null"}
        kind = kinds.pop() if len(kinds) == 1 else None
    if kind is Kind.BOOLEAN:
        return BOOLEAN
    return None if kind is None else ValueType(kind, values)


_JSON_KINDS: Mapping[str, Kind] = {
    "string": Kind.TEXT,
    "integer": Kind.INTEGER,
    "boolean": Kind.BOOLEAN,
}


def _values(one: EvidenceField) -> tuple[Scalar, ...] | None:
    """Return all values that a field's schema lists, or None when it lists none."""
    listed = one.json_schema.get("enum")
    if not isinstance(listed, list):
        listed = [one.json_schema["const"]] if "const" in one.json_schema else None
    if listed is None:
        return None
    return tuple(value for value in listed if isinstance(value, str | int))


def _kind(value: Scalar) -> Kind:
    """Return the kind of a value."""
    match value:
        case bool():
            return Kind.BOOLEAN
        case int():
            return Kind.INTEGER
        case str():
            return Kind.TEXT


def compile_fields(kind: EvidenceType) -> jsonschema_rs.Draft202012Validator:
    """Return the compiled schema of an evidence type's fields, any of which may come.

    Formats are checked, nothing is fetched, and patterns run in linear time.

    Raises:
        ValueError: A field's schema can't be compiled.
    """
    schema = {
        "type": "object",
        "properties": {n: dict(one.json_schema) for n, one in kind.fields.items()},
        "additionalProperties": False,
    }
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        offline=True,
        pattern_options=jsonschema_rs.RegexOptions(),
    )


def _check_service(
    service: DataService, catalogue: Catalogue, complain: Complain
) -> None:
    """Check whom and what a data service names."""
    if service.provider not in catalogue.providers:
        complain("provider", because=f"no provider `{service.provider}` is declared")
    if service.evidence_type not in catalogue.evidence_types:
        because = f"no evidence type `{service.evidence_type}` is declared"
        complain("evidence_type", because=because)
    if not service.coverage.regions:
        complain("coverage", "regions", because="at least one region is needed")


def _check_grant(grant: SharingGrant, catalogue: Catalogue, complain: Complain) -> None:
    """Check whom and what a grant names."""
    if grant.requester not in catalogue.requesters:
        complain("requester", because=f"no requester `{grant.requester}` is declared")
    if grant.valid_until <= grant.valid_from:
        complain("valid_until", because="must be later than `valid_from`")
    kind = catalogue.evidence_types.get(grant.evidence_type)
    if kind is None:
        because = f"no evidence type `{grant.evidence_type}` is declared"
        complain("evidence_type", because=because)
    else:
        for index, name in enumerate(grant.fields):
            if name not in kind.thing.fields:
                complain("fields", index, because=f"no field `{name}` is there")
        for index, mode in enumerate(grant.modes):
            if mode not in kind.thing.modes:
                complain("modes", index, because="the evidence type has no such mode")
    matters = [one.thing for one in catalogue.matters.values()]
    named = [matter for matter in matters if matter.id in grant.matters]
    for index, name in enumerate(grant.matters):
        if name not in {matter.id for matter in matters}:
            complain("matters", index, because=f"no matter `{name}` is declared")
    for index, purpose in enumerate(grant.purposes):
        if not any(purpose in matter.purposes for matter in named):
            complain("purposes", index, because="no matter of this grant has it")
    for role in grant.bases:
        if not any(role in matter.roles for matter in named):
            complain("bases", role, because="no matter of this grant has this role")


# --- matters -----------------------------------------------------------------------


class _MatterCheck:
    """Checks one matter, and compiles its conditions."""

    def __init__(
        self, matter: Matter, catalogue: Catalogue, complain: Complain
    ) -> None:
        self.matter = matter
        self.catalogue = catalogue
        self.complain = complain
        self.programs: dict[Expression, Program] = {}
        self.names: dict[str, ValueType] = {}
        """The type of every question and concept."""
        self.carried: dict[Concept, set[tuple[Slug, str]]] = {}
        """Concept → the asks and fields that tell it."""

    def check(self) -> None:
        """Check the matter part by part; each part stands on those before it."""
        sound = len(self.programs)
        self.check_roles()
        self.check_steps()
        sound = self.check_asks()
        if not sound:
            return
        self.name_everything()
        self.check_reachable()
        self.check_questions()
        for name, requirement in self.matter.requirements.items():
            self.check_requirement(name, requirement)
        self.check_use()

    def check_roles(self) -> None:
        """Check that one role applies, and that no name means two things."""
        applicants = [n for n, role in self.matter.roles.items() if role.applicant]
        if len(applicants) != 1:
            self.complain("roles", because="exactly one role must be the applicant")
        for name in applicants:
            if not self.matter.roles[name].required:
                self.complain("roles", name, because="the applicant is required")
        for name in self.matter.roles.keys() & self.matter.questions.keys():
            self.complain("questions", name, because="a role has this name")
        if "self" in self.matter.roles:
            self.complain("roles", "self", because="`self` is for evidence types")

    def check_steps(self) -> None:
        """Check who performs each step, and that no step waits for itself."""
        steps = self.matter.steps
        for name, step in steps.items():
            if step.provider not in self.catalogue.providers:
                because = f"no provider `{step.provider}` is declared"
                self.complain("steps", name, "provider", because=because)
            for index, earlier in enumerate(step.after):
                if earlier not in steps:
                    because = f"no step `{earlier}` is declared"
                    self.complain("steps", name, "after", index, because=because)
        for name in _in_circles({name: step.after for name, step in steps.items()}):
            self.complain("steps", name, "after", because="the step waits for itself")
        for index, visit in enumerate(self.matter.visits):
            self.check_steps_named(visit.steps, "visits", index, "steps")

    def check_steps_named(self, steps: Iterable[Slug], *path: str | int) -> None:
        """Check that steps exist."""
        for index, step in enumerate(steps):
            if step not in self.matter.steps:
                self.complain(*path, index, because=f"no step `{step}` is declared")

    def check_asks(self) -> bool:
        """Check each ask, and tell whether what they name is there."""
        sound = True
        for name, ask in self.matter.asks.items():
            kind = self.catalogue.evidence_types.get(ask.evidence_type)
            if kind is None:
                because = f"no evidence type `{ask.evidence_type}` is declared"
                self.complain("asks", name, "evidence_type", because=because)
                sound = False
                continue
            self.check_ask(name, ask, kind.thing)
            sound &= self.check_ask_roles(name, ask, kind.thing)
        return sound

    def check_ask(self, name: Slug, ask: Ask, kind: EvidenceType) -> None:
        """Check an ask's mode, its step and that somebody offers the evidence."""
        if ask.mode not in kind.modes:
            because = f"`{kind.ref}` can't be asked for in this mode"
            self.complain("asks", name, "mode", because=because)
        if ask.output_of is not None and ask.output_of not in self.matter.steps:
            because = f"no step `{ask.output_of}` is declared"
            self.complain("asks", name, "output_of", because=because)
        offers = (one.thing.evidence_type for one in self.catalogue.services.values())
        if kind.ref not in set(offers):
            because = f"no data service offers `{kind.ref}`"
            self.complain("asks", name, "evidence_type", because=because)

    def check_ask_roles(self, name: Slug, ask: Ask, kind: EvidenceType) -> bool:
        """Check that every role of the evidence type is a role of the matter."""
        spoken = {concept.partition(".")[0] for concept in _concepts(kind)} - {"self"}
        wrong = []
        if ask.about not in self.matter.roles:
            wrong.append((("about",), f"no role `{ask.about}` is declared"))
        for index, role in enumerate(ask.concerns):
            if role not in self.matter.roles:
                wrong.append((("concerns", index), f"no role `{role}` is declared"))
        for theirs, ours in ask.roles.items():
            if theirs not in spoken:
                because = f"`{kind.ref}` does not speak of `{theirs}`"
                wrong.append((("roles", theirs), because))
            if ours not in self.matter.roles:
                wrong.append((("roles", theirs), f"no role `{ours}` is declared"))
        for theirs in sorted(spoken - ask.roles.keys() - self.matter.roles.keys()):
            because = f"`{kind.ref}` speaks of `{theirs}`: which role is that?"
            wrong.append((("roles",), because))
        for path, because in wrong:
            self.complain("asks", name, *path, because=because)
        return not wrong

    def name_everything(self) -> None:
        """Gather the names that conditions may mention, each with its type."""
        for name, question in self.matter.questions.items():
            self.names[name] = _answer_type(question)
        for name in self.stated():
            self.names[name] = TEXT
        for ask_name, ask in self.matter.asks.items():
            for field_name, one in self.fields(ask).items():
                found = value_type(one)
                if one.concept is None or found is None:
                    continue
                concept = ask.concept(one.concept)
                self.carried.setdefault(concept, set()).add((ask_name, field_name))
                known = self.names.get(concept, found)
                if known.kind is not found.kind:
                    because = (
                        f"`{concept}` is {known.kind} elsewhere, {found.kind} here"
                    )
                    self.complain("asks", ask_name, because=because)
                self.names[concept] = _either(known, found)
        for name, ask in self.matter.asks.items():
            if ask.region is not None and ask.region not in self.names:
                because = f"`{ask.region}` is no concept of the matter"
                self.complain("asks", name, "region", because=because)

    def stated(self) -> set[Concept]:
        """Return the facts that the portal may state."""
        return {
            f"{role_name}.{fact_name}"
            for role_name, role in self.matter.roles.items()
            for fact_name in role.facts
        }

    def fields(self, ask: Ask) -> Mapping[str, EvidenceField]:
        """Return the fields of what an ask asks for."""
        return self.catalogue.evidence_types[ask.evidence_type].thing.fields

    def check_reachable(self) -> None:
        """Check that each ask's keys can be filled by stated facts or other asks."""
        known = self.stated()
        waiting = dict(self.matter.asks)
        while ready := {n: a for n, a in waiting.items() if self.can_ask(a, known)}:
            for name, ask in ready.items():
                del waiting[name]
                known.update(
                    ask.concept(one.concept)
                    for one in self.fields(ask).values()
                    if one.concept is not None and not one.comparison_only
                )
        for name in waiting:
            because = "no set of its keys can ever be filled"
            self.complain("asks", name, because=because)

    def can_ask(self, ask: Ask, known: set[Concept]) -> bool:
        """Tell whether a set of an ask's keys is known."""
        kind = self.catalogue.evidence_types[ask.evidence_type].thing
        return any(
            all(ask.concept(key.concept) in known for key in key_set)
            for key_set in kind.keys
        )

    def check_questions(self) -> None:
        """Check each question's choices and when it arises."""
        for name, question in self.matter.questions.items():
            has_choices = question.type is QuestionType.CHOICE
            if has_choices is not bool(question.choices):
                because = "choices belong to a `choice`, which needs some"
                self.complain("questions", name, "choices", because=because)
            self.condition(question.when, "questions", name, "when")

    def check_requirement(self, name: Slug, requirement: Requirement) -> None:
        """Check how a requirement is met, and what it names."""
        here = partial(self.complain, "requirements", name)
        ways = (requirement.lists, requirement.derive, requirement.declare)
        if sum(map(bool, ways)) != 1:
            here(because="exactly one of `lists`, `derive` and `declare` is needed")
        if requirement.declare is not None:
            if requirement.declare not in self.matter.questions:
                because = f"no question `{requirement.declare}` is declared"
                here("declare", because=because)
        if requirement.criterion is not None and not requirement.lists:
            here("criterion", because="there is no evidence to judge")
        self.check_steps_named(requirement.steps, "requirements", name, "steps")
        for index, use in enumerate(requirement.replaces):
            self.check_paper(name, index, use.paper, use.asked_by)
        for index, listed in enumerate(requirement.lists):
            path = ("requirements", name, "lists", index)
            self.condition(listed.when, *path, "when")
            for place, need in enumerate(listed.all):
                self.check_need(need, *path, "all", place)
        self.check_conditions(name, requirement)

    def check_paper(
        self, name: Slug, index: int, paper: Slug, asked_by: Iterable[Slug]
    ) -> None:
        """Check that a paper and those who took it are declared."""
        here = partial(self.complain, "requirements", name, "replaces", index)
        if paper not in self.matter.papers:
            here("paper", because=f"no paper `{paper}` is declared")
        for place, provider in enumerate(asked_by):
            if provider not in self.catalogue.providers:
                because = f"no provider `{provider}` is declared"
                here("asked_by", place, because=because)

    def check_need(self, need: Need, *path: str | int) -> None:
        """Check that a need's fields exist and may be used so."""
        ask = self.matter.asks.get(need.ask)
        if ask is None:
            because = f"no ask `{need.ask}` is declared"
            self.complain(*path, "ask", because=because)
            return
        fields = self.fields(ask)
        for index, name in enumerate(need.fields):
            here = partial(self.complain, *path, "fields", index)
            if name not in fields:
                here(because=f"`{ask.evidence_type}` has no field `{name}`")
            elif fields[name].comparison_only:
                here(because=f"`{name}` may be compared, never passed on")
        for index, name in enumerate(need.compare):
            here = partial(self.complain, *path, "compare", index)
            if name not in fields:
                here(because=f"`{ask.evidence_type}` has no field `{name}`")
            elif fields[name].concept is None:
                here(because=f"`{name}` states no concept to compare with")
        self.check_mode(ask.mode, need, *path)

    def check_mode(self, mode: Mode, need: Need, *path: str | int) -> None:
        """Check that a need asks for what its mode can give."""
        if mode is Mode.VERIFY and need.fields:
            because = "to verify passes nothing on: use `compare`"
            self.complain(*path, "fields", because=because)
        if mode is Mode.VERIFY and not need.compare:
            self.complain(*path, because="to verify, `compare` must name fields")
        if mode is Mode.RETRIEVE and not (need.fields or need.compare):
            self.complain(*path, because="no field is needed: name some, or drop it")

    def check_conditions(self, name: Slug, requirement: Requirement) -> None:
        """Compile a requirement's conditions; what they speak of must be fetched."""
        path = ("requirements", name)
        own = self.fetched(requirement)
        everywhere = set[tuple[Slug, str]]()
        for other in self.matter.requirements.values():
            everywhere |= self.fetched(other)
        for part, text, fetched in (
            ("when", requirement.when, everywhere),
            ("criterion", requirement.criterion, own),
            ("derive", requirement.derive, everywhere),
        ):
            program = self.condition(text, *path, part)
            for concept in sorted(program.concepts if program else ()):
                told = self.carried.get(concept, set()) & fetched
                if not told and concept not in self.stated() | self.chained():
                    because = f"nothing here fetches `{concept}`"
                    self.complain(*path, part, because=because)

    def fetched(self, requirement: Requirement) -> set[tuple[Slug, str]]:
        """Return the fields, by ask, that a requirement's evidence brings."""
        return {
            (need.ask, name)
            for listed in requirement.lists
            for need in listed.all
            for name in (*need.fields, *need.compare)
        }

    def chained(self) -> set[Concept]:
        """Return the concepts that are fetched because other asks need them."""
        found = {ask.region for ask in self.matter.asks.values()} - {None}
        for ask in self.matter.asks.values():
            kind = self.catalogue.evidence_types[ask.evidence_type].thing
            keys = (key for key_set in kind.keys for key in key_set)
            found.update(ask.concept(key.concept) for key in keys)
        return {concept for concept in found if concept is not None}

    def condition(self, text: Expression | None, *path: str | int) -> Program | None:
        """Compile a condition, and complain if that can't be done."""
        if text is None:
            return None
        if text not in self.programs:
            try:
                self.programs[text] = compile_expression(text, self.names)
            except ExpressionError as error:
                self.complain(*path, because=str(error))
        return self.programs.get(text)

    def check_use(self) -> None:
        """Check that nothing is declared, or asked of the applicant, for nothing."""
        requirements = self.matter.requirements.values()
        papers = {use.paper for one in requirements for use in one.replaces}
        asks = {need.ask for one in requirements for li in one.lists for need in li.all}
        asked = {one.declare for one in requirements}
        asked.update(*(program.questions for program in self.programs.values()))
        for part, declared, used in (
            ("papers", self.matter.papers, papers),
            ("asks", self.matter.asks, asks),
            ("questions", self.matter.questions, asked),
        ):
            for name in declared:
                if name not in used:
                    self.complain(part, name, because="no requirement needs it")


def _concepts(kind: EvidenceType) -> Iterator[Concept]:
    """Yield every concept that an evidence type speaks of."""
    for key_set in kind.keys:
        for key in key_set:
            yield key.concept
    for one in kind.fields.values():
        if one.concept is not None:
            yield one.concept


def _in_circles(after: Mapping[Slug, Iterable[Slug]]) -> list[Slug]:
    """Return the steps that can never be done, because of a circle."""
    waiting = {
        name: {e for e in earlier if e in after} for name, earlier in after.items()
    }
    while done := {name for name, earlier in waiting.items() if not earlier}:
        waiting = {
            name: earlier - done
            for name, earlier in waiting.items()
            if name not in done
        }
    return list(waiting)


def _answer_type(question: Question) -> ValueType:
    """Return the type of a question's answer."""
    match question.type:
        case QuestionType.BOOLEAN:
            return BOOLEAN
        case QuestionType.CHOICE:
            return ValueType(Kind.TEXT, tuple(question.choices))
        case QuestionType.TEXT | QuestionType.DATE | QuestionType.REGION:
            return TEXT


def _either(one: ValueType, other: ValueType) -> ValueType:
    """Return the type of a value that is of one type or the other."""
    if one.values is None or other.values is None:
        return ValueType(one.kind)
    return ValueType(one.kind, tuple(dict.fromkeys((*one.values, *other.values))))
