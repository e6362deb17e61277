"""Citizen ids, credit codes, regions and near matches."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas import codes
from schemas.codes import (
    check_citizen_id,
    check_credit_code,
    citizen_birth_date,
    citizen_check_digit,
    credit_check_character,
    looks_like_citizen_id,
    looks_like_credit_code,
    near,
    organisation_check_character,
    region_contains,
)
from schemas.outcome import ConflictHint

PUBLISHED_IDS = ("11010519491231002X", "34052419800101001X")
SYNTHETIC_IDS = (
    "990101199403120026",
    "990101199207250018",
    "99010120260108004X",
    "99010119881130003X",
    "990101196602150013",
)
CREDIT_CODES = (
    "91350100M000100Y43",  # published
    "91990101MA0TEKT17Y",
    "92990101MA0TEKT17U",
    "11990100K00000014P",
    "12990100K00000014L",
)
CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def citizen_ids() -> st.SearchStrategy[str]:
    """Return ids with valid check digits in region 9901, where nobody lives."""
    return st.builds(
        lambda district, born, sequence: _with_check(
            f"9901{district:02d}{born:%Y%m%d}{sequence:03d}"
        ),
        st.integers(1, 99),
        st.dates(date(1900, 1, 1), date(2099, 12, 31)),
        st.integers(0, 999),
    )


def _with_check(first_17: str) -> str:
    return first_17 + citizen_check_digit(first_17)


def credit_codes() -> st.SearchStrategy[str]:
    """Return credit codes with both check characters valid."""

    def build(registrar: str, region: str, organisation: str) -> str:
        body = organisation + organisation_check_character(organisation)
        first_17 = registrar + region + body
        return first_17 + credit_check_character(first_17)

    return st.builds(
        build,
        st.sampled_from(("91", "92", "11", "53")),
        st.from_regex("9901[0-9]{2}", fullmatch=True),
        st.text(CREDIT_ALPHABET, min_size=8, max_size=8),
    )


@pytest.mark.parametrize("citizen_id", PUBLISHED_IDS + SYNTHETIC_IDS)
def test_published_and_synthetic_citizen_ids_pass(citizen_id: str) -> None:
    """The samples of the standard, and those of region 990100, are well formed."""
    check_citizen_id(citizen_id)

    assert looks_like_citizen_id(citizen_id)


@given(citizen_ids(), st.integers(0, 17), st.sampled_from("0123456789X"))
def test_every_change_of_one_character_of_a_citizen_id_is_caught(
    citizen_id: str, place: int, other: str
) -> None:
    """No id stays well formed when one of its characters is another one."""
    assume(citizen_id[place] != other)
    changed = citizen_id[:place] + other + citizen_id[place + 1 :]

    with pytest.raises(ValueError, match=r"must be|does not fit"):
        check_citizen_id(changed)


@given(citizen_ids())
def test_a_citizen_id_states_its_birth_date(citizen_id: str) -> None:
    """Digits 7 to 14 are the birth date."""
    check_citizen_id(citizen_id)

    assert citizen_id[6:14] == f"{citizen_birth_date(citizen_id):%Y%m%d}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "99010119940312002",
        "9901011994031200266",
        "99010119940312002x",
        " 990101199403120026",
        "990101199403120026\n",
        "99010119940312\uff10\uff1026",
        "090101199403120026",
    ],
)
def test_what_has_not_the_form_of_a_citizen_id_is_refused(text: str) -> None:
    """Length, digits, the capital X and ASCII are demanded."""
    with pytest.raises(ValueError, match="must be 17 digits"):
        check_citizen_id(text)

    assert not looks_like_citizen_id(text)


def test_a_citizen_id_of_an_impossible_date_is_refused() -> None:
    """The 30th of February is no birth date, whatever the check digit says."""
    impossible = _with_check("99010119940230002")

    with pytest.raises(ValueError, match="must be a date"):
        check_citizen_id(impossible)

    assert looks_like_citizen_id(impossible)


_WRITTEN = Path(codes.__file__).read_text(encoding="utf-8")


@given(st.text(max_size=20))
def test_no_complaint_about_a_code_repeats_it(text: str) -> None:
    """What a person typed never comes back in an error."""
    # What stands in the module may stand in a message, whoever typed it.
    assume(len(text) > 2 and text not in _WRITTEN)

    for check in (check_citizen_id, check_credit_code):
        with pytest.raises(ValueError, match=r".+") as caught:
            check(text)
        assert text not in str(caught.value)


@pytest.mark.parametrize("code", CREDIT_CODES)
def test_published_and_synthetic_credit_codes_pass(code: str) -> None:
    """A published code and those of region 990100 are well formed."""
    check_credit_code(code)

    assert looks_like_credit_code(code)


@given(credit_codes(), st.integers(0, 17), st.sampled_from(CREDIT_ALPHABET))
def test_every_change_of_one_character_of_a_credit_code_is_caught(
    code: str, place: int, other: str
) -> None:
    """No credit code stays well formed when one of its characters is another one."""
    check_credit_code(code)
    assume(code[place] != other)
    changed = code[:place] + other + code[place + 1 :]

    with pytest.raises(ValueError, match=r"must be|does not fit"):
        check_credit_code(changed)


@pytest.mark.parametrize("letter", "IOZSV")
def test_letters_that_look_like_digits_are_no_part_of_a_credit_code(
    letter: str,
) -> None:
    """I, O, Z, S and V are left out of the alphabet."""
    assert not looks_like_credit_code("91990101MA0TEKT17Y".replace("K", letter))


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("990100", "990100", True),
        ("990100", "990101", True),
        ("990100", "990101002", True),
        ("990100", "990101002003", True),
        ("990101", "990101002003", True),
        ("990101002", "990101002003", True),
        ("990101000", "990101002", True),
        ("990000", "990101", True),
        ("000000", "990101", True),
        ("990100", "990000", False),
        ("990101", "990100", False),
        ("990101", "990102", False),
        ("990100", "990201", False),
        ("990101002", "990101", False),
        ("990101002", "990101003", False),
        ("990110", "990111", False),
        ("429000", "429004", True),
    ],
)
def test_a_region_contains_what_lies_inside_it(
    outer: str, inner: str, *, expected: bool
) -> None:
    """Pairs of zeroes name the level above; township and village lie inside."""
    assert expected is region_contains(outer, inner)


REGIONS = st.from_regex(
    "[1-9][0-9](00|0[1-9])(00|0[1-9]|1[0-9])(0(00|01)(0(00|01))?)?", fullmatch=True
)


@given(REGIONS, REGIONS, REGIONS)
def test_containment_of_regions_is_an_order(one: str, two: str, three: str) -> None:
    """A region contains itself, and what is contained in what it contains."""
    assert region_contains(one, one)
    if region_contains(one, two) and region_contains(two, three):
        assert region_contains(one, three)


@given(st.text(min_size=1, max_size=20), st.data())
def test_one_other_character_is_near(text: str, data: st.DataObject) -> None:
    """Two texts that differ in one character nearly agree, both ways."""
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda c: c != text[place]))
    changed = text[:place] + other + text[place + 1 :]

    assert ConflictHint.ONE_CHARACTER == near(text, changed) == near(changed, text)


@given(st.text(min_size=2, max_size=20), st.data())
def test_two_swapped_neighbours_are_near(text: str, data: st.DataObject) -> None:
    """Two texts that differ by a swap of neighbours nearly agree, both ways."""
    place = data.draw(st.integers(0, len(text) - 2))
    assume(text[place] != text[place + 1])
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]

    assert ConflictHint.TRANSPOSED == near(text, swapped) == near(swapped, text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("990101199207250018", "990101199403120026"),
        ("990101199207250018", "99010119920725001"),
        ("990101199207250018", "990101199207251108"),
        ("1234", "3214"),
        ("1234", "2143"),
        ("same", "same"),
        ("", ""),
    ],
)
def test_other_differences_are_not_near(one: str, other: str) -> None:
    """Two changes, a swap over a distance, another length, or none: not near."""
    assert near(one, other) is None
