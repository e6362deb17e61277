"""The synthetic population holds together, and nobody in it could exist."""

from collections import Counter
from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.demo.people import FEMALE, MALE, REGISTER_DAY, Population, Relation
from exchange.demo.population import generate
from schemas.codes import check_citizen_id, near
from schemas.outcome import ConflictHint


@lru_cache(maxsize=1)
def a_population() -> Population:
    """Return the population that the demo uses by default in size."""
    return generate(seed=7, at_least=20_000)


def test_has_at_least_as_many_people_as_asked_for_each_with_an_id_of_their_own() -> (
    None
):
    """Twenty thousand people have twenty thousand ids."""
    people = a_population().people

    assert len(people) >= 20_000
    assert len(people) == len({person.id for person in people})


def test_every_id_is_valid_and_of_a_region_that_was_never_assigned() -> None:
    """GB 11643's check digit holds, and every region starts with 9901."""
    population = a_population()

    for person in population.people:
        check_citizen_id(person.id)
    assert {"9901"} == {person.id[:4] for person in population.people}
    assert {"9901"} == {household.region[:4] for household in population.households}


def test_an_id_says_its_persons_sex_and_birth_date() -> None:
    """Digits 7 to 14 are the birth date, and digit 17 is odd for men."""
    for person in a_population().people:
        odd = int(person.id[16]) % 2 == 1

        assert f"{person.birth_date:%Y%m%d}" == person.id[6:14]
        assert (person.sex == MALE) == odd


def test_everybody_lives_in_exactly_one_household_that_has_one_head() -> None:
    """Members of all households are the people, and families have a head."""
    population = a_population()
    homes = Counter(m.person.id for h in population.households for m in h.members)

    assert {person.id for person in population.people} == set(homes)
    assert {1} == set(homes.values())
    for household in population.households:
        heads = [m for m in household.members if m.relation is Relation.HEAD]
        assert len(heads) <= 1


def test_a_marriage_joins_a_man_and_a_woman_of_age() -> None:
    """Both are of the age of the Civil Code's article 1047."""
    for marriage in a_population().marriages:
        assert (MALE, FEMALE) == (marriage.man.sex, marriage.woman.sex)
        assert marriage.man.age(marriage.registered_on) >= 22
        assert marriage.woman.age(marriage.registered_on) >= 20
        assert marriage.registered_on < REGISTER_DAY


def test_births_are_of_the_last_year_and_name_parents_who_are_registered() -> None:
    """A certificate's mother is in the register and old enough; so is the father."""
    population = a_population()
    people = set(population.people)

    assert len(population.births) > 50
    for birth in population.births:
        assert birth.mother in people
        assert birth.father is None or birth.father in people
        assert birth.mother.age(birth.born_on) >= 20
        assert 0 <= (REGISTER_DAY - birth.born_on).days <= 366


def test_the_five_families_wait_with_a_child_that_is_not_registered() -> None:
    """Each has a certificate, and no child among the people yet."""
    population = a_population()
    births = {birth.mother.id: birth for birth in population.births}

    assert ["married", "unmarried", "consent", "source_down", "near_match"] == list(
        population.families
    )
    for family in population.families.values():
        birth = births[family.mother.id]
        assert birth.child is None
        assert (family.father, family.born_on) == (birth.father, birth.born_on)


def test_the_unmarried_mother_is_in_no_marriage() -> None:
    """She is in no entry of the marriage register, and names no father."""
    population = a_population()
    mother = population.families["unmarried"].mother

    assert population.families["unmarried"].father is None
    assert mother not in {marriage.woman for marriage in population.marriages}


def test_one_marriage_record_is_one_digit_off_and_hits_nobody_else() -> None:
    """Only the family of the near match is recorded wrongly."""
    population = a_population()
    wrong = [m for m in population.marriages if m.recorded_man_id != m.man.id]
    family = population.families["near_match"]

    assert [family.mother] == [marriage.woman for marriage in wrong]
    assert ConflictHint.ONE_CHARACTER == near(wrong[0].recorded_man_id, wrong[0].man.id)
    assert wrong[0].recorded_man_id not in {person.id for person in population.people}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_people(seed: int) -> None:
    """Everything follows from the seed."""
    assert generate(seed, 100) == generate(seed, 100)


def test_another_seed_gives_other_people() -> None:
    """The seed matters, but not to the five families."""
    one, other = generate(1, 100), generate(2, 100)

    assert one.people != other.people
    assert one.families["married"].mother.id == other.families["married"].mother.id
