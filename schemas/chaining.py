"""Which asks of a matter lead to which: what one tells may be a key of another."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from schemas.declared import Catalogue
from schemas.evidence import EvidenceField, Mode
from schemas.matter import Ask, Matter
from schemas.model import Concept, Slug


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
        ask = self.matter.asks[name]
        kind = self.catalogue.evidence_types[ask.evidence_type].thing
        for key_set in kind.keys:
            yield from (ask.concept(key.concept) for key in key_set)
        if ask.region is not None:
            yield ask.region

    def chained(self) -> set[Concept]:
        """Return the concepts that are fetched because other asks need them."""
        return {concept for name in self.matter.asks for concept in self.sought(name)}

    def unreachable(self) -> list[Slug]:
        """Return asks of whose sets of keys none can ever be filled."""
        known = self.stated()
        waiting = dict(self.matter.asks)
        while ready := {n: a for n, a in waiting.items() if self._can_ask(a, known)}:
            for name, ask in ready.items():
                del waiting[name]
                known |= self.told(ask)
        return list(waiting)

    def leading_to(self, named: AbstractSet[Slug]) -> set[Slug]:
        """Return asks that requirements name, and all that lead to one of them.

        One leads to another when a field of it tells a key or the region of the other.
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

    def _can_ask(self, ask: Ask, known: AbstractSet[Concept]) -> bool:
        """Tell whether a set of an ask's keys is known."""
        kind = self.catalogue.evidence_types[ask.evidence_type].thing
        return any(
            all(ask.concept(key.concept) in known for key in key_set)
            for key_set in kind.keys
        )
