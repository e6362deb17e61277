"""Which asks of a matter lead to which: what one tells may be a key of another."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from schemas.declared import Catalogue
from schemas.evidence import EvidenceField, FieldName, Mode
from schemas.matter import Ask, Matter
from schemas.model import Concept, Slug

_REMEDY = "let a role state it, or another ask retrieve it"


@dataclass(frozen=True, slots=True)
class Chaining:
    """How the asks of one matter hang together; their evidence types are declared."""

    matter: Matter
    catalogue: Catalogue

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

    def told(self, ask: Ask) -> set[Concept]:
        """Return the concepts that an ask tells other asks; to verify tells nothing."""
        if ask.mode is Mode.VERIFY:
            return set()
        return {
            ask.concept(one.concept)
            for one in self.fields(ask).values()
            if one.concept is not None and not one.comparison_only
        }

    def sought(self, name: Slug) -> Iterator[Concept]:
        """Yield every concept that an ask may be made by."""
        for keys in self._key_sets(self.matter.asks[name]):
            yield from keys
        yield from self._besides(name)

    def chained(self) -> set[Concept]:
        """Return the concepts that are fetched because other asks need them."""
        return {concept for name in self.matter.asks for concept in self.sought(name)}

    def unreachable(self) -> Iterator[tuple[Slug, str]]:
        """Yield every ask that can never be made, and why."""
        known = self.stated()
        waiting = dict(self.matter.asks)
        while ready := [name for name in waiting if not self._lacks(name, known)]:
            for name in ready:
                known |= self.told(waiting.pop(name))
        for name in waiting:
            yield name, self._lacks(name, known)

    def needed(self, name: Slug) -> Iterator[frozenset[FieldName]]:
        """Yield the fields that each need wants of an ask."""
        for requirement in self.matter.requirements.values():
            for need in (need for listed in requirement.lists for need in listed.all):
                if need.ask == name:
                    yield frozenset([*need.fields, *need.compare])

    def alone(
        self, name: Slug, concepts: AbstractSet[Concept]
    ) -> Iterator[frozenset[FieldName]]:
        """Yield each field that an ask retrieves and that states such a concept."""
        ask = self.matter.asks[name]
        if ask.mode is Mode.RETRIEVE:
            for field, one in self.fields(ask).items():
                if one.concept is not None and ask.concept(one.concept) in concepts:
                    yield frozenset([field])

    def leading_to(self, named: AbstractSet[Slug]) -> set[Slug]:
        """Return asks that requirements name, and all that lead to one of them.

        One leads to another when a field of it tells what the other is made by.
        """
        used = set(named) & self.matter.asks.keys()
        while True:
            sought = {concept for name in used for concept in self.sought(name)}
            more = {
                name
                for name, ask in self.matter.asks.items()
                if name not in used and not sought.isdisjoint(self.told(ask))
            }
            if not more:
                return used
            used |= more

    def _key_sets(self, ask: Ask) -> list[set[Concept]]:
        """Return the sets of keys by any one of which an ask can be made."""
        kind = self.catalogue.evidence_types[ask.evidence_type].thing
        return [{ask.concept(key.concept) for key in keys} for keys in kind.keys]

    def _besides(self, name: Slug) -> set[Concept]:
        """Return what an ask takes beside its keys: its region, and what it verifies.

        A fact that has to be compared at the source must be known to be sent there.
        """
        ask = self.matter.asks[name]
        found = set[Concept]() if ask.region is None else {ask.region}
        if ask.mode is Mode.VERIFY:
            fields = self.fields(ask)
            found.update(
                ask.concept(concept)
                for wanted in self.needed(name)
                for field in wanted
                if field in fields and (concept := fields[field].concept) is not None
            )
        return found

    def _lacks(self, name: Slug, known: AbstractSet[Concept]) -> str:
        """Say why an ask can't be made where no more is known; empty where it can."""
        if not any(keys <= known for keys in self._key_sets(self.matter.asks[name])):
            return f"no set of its keys can ever be filled: {_REMEDY}"
        if lacking := sorted(self._besides(name) - known):
            named = ", ".join(f"`{concept}`" for concept in lacking)
            return f"it takes {named}, which nothing here tells: {_REMEDY}"
        return ""
