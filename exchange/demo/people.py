"""Synthetic people, and what registers hold about them.

Every id has a valid check digit (GB 11643) and lies in 9901xx, regions that were
never assigned, so nobody living can match.
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from schemas.codes import citizen_check_digit

REGISTER_DAY = date(2026, 1, 31)
"""The day on which the registers were last written, before the demo starts."""

CITY = "990100"
"""云溪市: the fictional city whose districts are 990101 to 990106."""

MALE = "1"
FEMALE = "2"
"""Sexes as GB/T 2261.1 codes them."""

DISTRICTS = {
    "990101": "清源区",
    "990102": "临江区",
    "990103": "白石区",
    "990104": "云岭县",
    "990105": "长桥县",
    "990106": "望海县",
}


class Relation(StrEnum):
    """How a member stands to the head of a household (GB/T 4761)."""

    HEAD = "02"
    HUSBAND = "11"
    WIFE = "12"
    SON = "20"
    DAUGHTER = "30"
    GRANDSON = "43"
    GRANDDAUGHTER = "44"
    FATHER = "51"
    MOTHER = "52"
    UNRELATED = "99"


class HouseholdKind(StrEnum):
    """What kind of household (户别)."""

    FAMILY = "FAMILY"
    COLLECTIVE = "COLLECTIVE"


@dataclass(frozen=True, slots=True)
class Person:
    """One synthetic person."""

    id: str
    name: str
    sex: str
    """`1` or `2` (GB/T 2261.1)."""
    birth_date: date
    nation: str
    """GB/T 3304."""

    def age(self, day: date) -> int:
        """Return the age in full years on a day."""
        birthday_is_past = (day.month, day.day) >= (
            self.birth_date.month,
            self.birth_date.day,
        )
        return day.year - self.birth_date.year - (not birthday_is_past)


@dataclass(frozen=True, slots=True)
class Member:
    """One person in a household."""

    person: Person
    relation: Relation


@dataclass(frozen=True, slots=True)
class Household:
    """People who are registered together (户)."""

    number: str
    kind: HouseholdKind
    head_name: str
    """The head's name; of a collective household the institution's."""
    members: tuple[Member, ...]
    address: str
    region: str
    """Township, nine digits (GB/T 10114)."""

    @property
    def police_station(self) -> str:
        """The competent police station's code: one for each township."""
        return f"{self.region}000"


@dataclass(frozen=True, slots=True)
class Marriage:
    """One entry of the marriage register."""

    certificate: str
    man: Person
    woman: Person
    registered_on: date
    divorced: bool
    recorded_man_id: str
    """The man's id as the register has it: one record of the demo is a digit off."""


@dataclass(frozen=True, slots=True)
class Birth:
    """One birth of the last year, with its certificate."""

    certificate: str
    mother: Person
    father: Person | None
    """None when the certificate leaves the father blank."""
    child_name: str
    child_sex: str
    born_on: date
    minute_of_day: int
    weeks: int
    weight_g: int
    length_cm: int
    region: str
    """Township of the birthplace, nine digits."""
    child: Person | None
    """The child once the police have registered it; None before."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of one of the demo's cases: what its portal may state."""

    mother: Person
    father: Person | None
    born_on: date
    child: str
    """The child's name."""


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody, and what the registers hold about them."""

    people: tuple[Person, ...]
    households: tuple[Household, ...]
    marriages: tuple[Marriage, ...]
    births: tuple[Birth, ...]
    families: dict[str, Family]
    """The families of the demo's cases, by the case's name."""
    served: Family
    """A family whose child has all its papers: a case of theirs settles at once."""


def citizen_id(region: str, born: date, sequence: int) -> str:
    """Return the id with its check digit.

    Args:
        region: Six digits.
        born: The date of birth.
        sequence: 1 to 999: odd for men, even for women.

    >>> citizen_id("990101", date(1994, 3, 12), 2)
    '990101199403120026'
    """
    first_17 = f"{region}{born:%Y%m%d}{sequence:03d}"
    return first_17 + citizen_check_digit(first_17)
