"""A synthetic population in families, drawn from a seed.

All of it follows from the seed; the day of the registers is fixed, so that examples
stay true.

`generate` is the only door: first the families of the demo's five cases, whose
children are born and not yet registered; then families until there are enough.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from exchange.demo.people import (
    DISTRICTS,
    FEMALE,
    MALE,
    REGISTER_DAY,
    Birth,
    Family,
    Household,
    HouseholdKind,
    Marriage,
    Member,
    Person,
    Population,
    Relation,
    citizen_id,
)

_STREETS = ("和平路", "建设路", "学府街", "滨河路", "朝阳街", "云台巷", "新华路")
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩邓冯曹彭曾肖田董潘袁蔡蒋余"
)
_MEN = "伟强磊军勇杰涛明超刚平辉鹏华飞鑫波斌宇浩凯健俊帆志建国文博子轩泽晨睿安"
_WOMEN = "芳娜敏静丽艳娟霞燕玲婷雪慧莹晶倩颖琳萍红玉梅兰云悦欣怡诗涵雨桐梓若晓溪月"

NATIONS = ("01", "01", "01", "01", "01", "01", "01", "01", "03", "11", "08")
"""Nations as GB/T 3304 codes them: Han is 01."""


_DORMITORIES = 0.004
_LIVE_ALONE = 0.15
_DIVORCED = 0.08
_WITH_GRANDMOTHER = 0.12
"""Shares of households (the second counts with the first) and of couples."""

_OLDEST_MOTHER = 42


def generate(seed: int, at_least: int, waiting: int = 0) -> Population:
    """Return a population of at least so many people, the same for the same seed.

    Args:
        seed: Decides everything.
        at_least: How many people.
        waiting: How many families more whose child waits for its papers: `waiting-1`
            and so on among the families, every other one a mother alone.
    """
    builder = _Builder(Random(seed))  # noqa: S311 - synthetic people, no secret
    families = dict(builder.families_of_the_cases())
    for number in range(1, waiting + 1):
        families[f"waiting-{number}"] = builder.family_that_waits(alone=number % 2 == 0)
    served = builder.family_that_is_served()
    while len(builder.people) < at_least:
        builder.any_household()
    return Population(
        people=tuple(builder.people),
        households=tuple(builder.households),
        marriages=tuple(builder.marriages),
        births=tuple(builder.births),
        families=families,
        served=served,
    )


@dataclass(frozen=True, slots=True)
class _Couple:
    """The parents of one of the demo's cases, and their child."""

    mother: str
    mother_born: date
    father: str | None
    father_born: date | None
    child: str
    child_sex: str
    born_on: date


_CASES = {
    "married": _Couple(
        *("林晓云", date(1994, 3, 12), "周建国", date(1992, 7, 25)),
        *("周念溪", FEMALE, date(2026, 1, 8)),
    ),
    "unmarried": _Couple(
        *("沈若兰", date(1998, 5, 30), None, None),
        *("沈知远", MALE, date(2026, 1, 11)),
    ),
    "consent": _Couple(
        *("何雨桐", date(1995, 9, 17), "陆子轩", date(1993, 2, 4)),
        *("陆安宁", MALE, date(2026, 1, 13)),
    ),
    "source_down": _Couple(
        *("唐欣怡", date(1991, 1, 6), "韩志强", date(1990, 8, 19)),
        *("韩一帆", MALE, date(2026, 1, 15)),
    ),
    "near_match": _Couple(
        *("方静", date(1996, 4, 2), "梁宇飞", date(1994, 6, 21)),
        *("梁小满", FEMALE, date(2026, 1, 18)),
    ),
}


@dataclass(frozen=True, slots=True)
class _Newborn:
    """What the birth certificate says of the child."""

    name: str
    sex: str
    born_on: date
    registered: Person | None = None


class _Builder:
    """Draws households one after the other; everything it drew is kept in lists."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sequences: Counter[tuple[str, date, str]] = Counter()
        self.people: list[Person] = []
        self.households: list[Household] = []
        self.marriages: list[Marriage] = []
        self.births: list[Birth] = []

    def families_of_the_cases(self) -> Iterator[tuple[str, Family]]:
        """Draw the five families whose children wait for their papers."""
        township = "990101001"
        for name, one in _CASES.items():
            mother = self._person(FEMALE, one.mother_born, "990101", name=one.mother)
            father = None
            if one.father and one.father_born:
                father = self._person(MALE, one.father_born, "990101", name=one.father)
                members = [Member(father, Relation.HEAD), Member(mother, Relation.WIFE)]
                off = name == "near_match"
                self._marriage(father, mother, date(2020, 5, 20), one_digit_off=off)
            else:
                members = self._with_her_mother(mother)
            self._household(township, members)
            newborn = _Newborn(one.child, one.child_sex, one.born_on)
            self._birth(mother, father, newborn, township)
            yield name, Family(mother, father, one.born_on, one.child)

    def family_that_waits(self, *, alone: bool) -> Family:
        """Draw one more family whose child waits for its papers."""
        township, born_on = "990101001", date(2026, 1, self._random.randint(5, 25))
        born = date(1993, 1, 1) + timedelta(days=self._random.randint(0, 1500))
        mother = self._person(FEMALE, born, "990101")
        older = born - timedelta(days=400)
        father = None if alone else self._person(MALE, older, "990101")
        if father is None:
            self._household(township, self._with_her_mother(mother))
        else:
            members = [Member(father, Relation.HEAD), Member(mother, Relation.WIFE)]
            self._marriage(father, mother, date(2021, 9, 9))
            self._household(township, members)
        parent = mother if father is None else father
        named = self._name(FEMALE, parent.name[0])
        newborn = _Newborn(named, FEMALE, born_on)
        self._birth(mother, father, newborn, township)
        return Family(mother, father, born_on, named)

    def family_that_is_served(self) -> Family:
        """Draw a mother alone whose child has all its papers."""
        born_on, township = date(2025, 11, 20), "990101001"
        mother = self._person(FEMALE, date(1993, 10, 5), "990101", name="顾清和")
        child = self._person(FEMALE, born_on, "990101", name="顾小满")
        members = [Member(mother, Relation.HEAD), Member(child, Relation.DAUGHTER)]
        self._household(township, members)
        newborn = _Newborn(child.name, child.sex, born_on, child)
        self._birth(mother, None, newborn, township)
        return Family(mother, None, born_on, child.name)

    def any_household(self) -> None:
        """Draw one household as they come: mostly families, some collective."""
        draw = self._random.random()
        if draw < _DORMITORIES:
            self._collective()
        elif draw < _LIVE_ALONE:
            alone = self._adult(self._pick(MALE, FEMALE), 18, 90)
            self._household(self._township(), [Member(alone, Relation.HEAD)])
        else:
            self._couple()

    def _couple(self) -> None:
        """Draw a couple, its children and sometimes a grandmother."""
        random = self._random
        township = self._township()
        husband = self._adult(MALE, 23, 80)
        wife_born = husband.birth_date + timedelta(days=random.randint(-700, 1800))
        youngest = REGISTER_DAY - timedelta(days=22 * 366)
        wife = self._person(FEMALE, min(wife_born, youngest), self._district())
        of_age = max(husband.birth_date.year + 22, wife.birth_date.year + 20)
        wed = date(min(of_age + random.randint(1, 5), 2025), 1, 1)
        wed += timedelta(days=random.randint(0, 364))
        self._marriage(husband, wife, wed, divorced=random.random() < _DIVORCED)
        members = [Member(husband, Relation.HEAD), Member(wife, Relation.WIFE)]
        members += self._children(husband, wife, wed, township)
        if random.random() < _WITH_GRANDMOTHER:
            members += [Member(self._adult(FEMALE, 62, 95), Relation.MOTHER)]
        self._household(township, members)

    def _children(
        self, father: Person, mother: Person, wed: date, township: str
    ) -> list[Member]:
        """Draw up to two children, born after the wedding and before 42."""
        children = []
        born = wed
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 2))):
            born += timedelta(days=self._random.randint(300, 1500))
            too_old = born.year - mother.birth_date.year > _OLDEST_MOTHER
            if born >= REGISTER_DAY or too_old:
                break
            sex = self._pick(MALE, FEMALE)
            named = self._name(sex, father.name[0])
            child = self._person(sex, born, township[:6], name=named)
            relation = Relation.SON if sex == MALE else Relation.DAUGHTER
            children.append(Member(child, relation))
            if REGISTER_DAY - born <= timedelta(days=365):
                newborn = _Newborn(child.name, sex, born, child)
                self._birth(mother, father, newborn, township)
        return children

    def _collective(self) -> None:
        """Draw a dormitory of people who are not related."""
        members = [
            Member(self._adult(self._pick(MALE, FEMALE), 18, 35), Relation.UNRELATED)
            for _ in range(self._random.randint(12, 30))
        ]
        self._household(self._township(), members, HouseholdKind.COLLECTIVE)

    def _with_her_mother(self, daughter: Person) -> list[Member]:
        mother = self._adult(FEMALE, 52, 60)
        return [Member(mother, Relation.HEAD), Member(daughter, Relation.DAUGHTER)]

    def _adult(self, sex: str, youngest: int, oldest: int) -> Person:
        days = self._random.randint((youngest + 1) * 366, oldest * 366)
        return self._person(sex, REGISTER_DAY - timedelta(days=days), self._district())

    def _person(
        self, sex: str, born: date, district: str, *, name: str | None = None
    ) -> Person:
        """Draw a person; the sequence is the next free one of place, day and sex."""
        key = (district, born, sex)
        self._sequences[key] += 1
        sequence = 2 * self._sequences[key] - (sex == MALE)
        person = Person(
            citizen_id(district, born, sequence),
            name or self._name(sex, self._pick(*_SURNAMES)),
            sex,
            born,
            self._pick(*NATIONS),
        )
        self.people.append(person)
        return person

    def _name(self, sex: str, surname: str) -> str:
        size = 1 if self._random.random() < 1 / 3 else 2
        given = _MEN if sex == MALE else _WOMEN
        return surname + "".join(self._random.choices(given, k=size))

    def _household(
        self,
        township: str,
        members: list[Member],
        kind: HouseholdKind = HouseholdKind.FAMILY,
    ) -> None:
        number = f"{township}{len(self.households) + 1:06d}"
        street, house = self._pick(*_STREETS), self._random.randint(1, 400)
        address = f"云溪市{DISTRICTS[township[:6]]}{street}{house}号"
        head = members[0].person.name
        if kind is HouseholdKind.COLLECTIVE:
            head = f"{street}人才集体户"
        self.households.append(
            Household(number, kind, head, tuple(members), address, township)
        )

    def _marriage(
        self,
        man: Person,
        woman: Person,
        registered_on: date,
        *,
        divorced: bool = False,
        one_digit_off: bool = False,
    ) -> None:
        self.marriages.append(
            Marriage(
                f"J{man.id[:6]}-{registered_on.year}-{len(self.marriages) + 1:06d}",
                man,
                woman,
                registered_on,
                divorced,
                _one_digit_off(man.id) if one_digit_off else man.id,
            )
        )

    def _birth(
        self, mother: Person, father: Person | None, newborn: _Newborn, township: str
    ) -> None:
        random = self._random
        self.births.append(
            Birth(
                certificate=f"Y99{len(self.births) + 1:07d}",
                mother=mother,
                father=father,
                child_name=newborn.name,
                child_sex=newborn.sex,
                born_on=newborn.born_on,
                minute_of_day=random.randrange(24 * 60),
                weeks=random.randint(36, 41),
                weight_g=random.randrange(2500, 4300, 10),
                length_cm=random.randint(46, 54),
                region=township,
                child=newborn.registered,
            )
        )

    def _district(self) -> str:
        return self._pick(*DISTRICTS)

    def _township(self) -> str:
        return f"{self._district()}{self._random.randint(1, 9):03d}"

    def _pick(self, *choices: str) -> str:
        return self._random.choice(choices)


def _one_digit_off(citizen: str) -> str:
    """Return the id with its sixteenth digit changed: no valid id is so near."""
    return citizen[:15] + str((int(citizen[15]) + 1) % 10) + citizen[16:]
