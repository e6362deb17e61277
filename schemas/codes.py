"""National codes: citizen ids, credit codes, regions; and how near two texts are.

Check digits are demanded of what a portal states. Ids inside evidence are only
parsed by pattern: a register's wrong digit is a conflict to be shown with its hint,
not a fault of the answer.

No message here holds the value that was checked.
"""

import re
from datetime import date
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from schemas.outcome import ConflictHint

_CITIZEN_ID = re.compile(r"[1-9][0-9]{5}(?:18|19|20)[0-9]{9}[0-9X]", re.ASCII)
_CITIZEN_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CITIZEN_CHECKS = "10X98765432"

_CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_CODE = re.compile(
    rf"[{_CREDIT_ALPHABET}]{{2}}[0-9]{{6}}[{_CREDIT_ALPHABET}]{{10}}", re.ASCII
)
_CREDIT_BODY = 17

_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)


def looks_like_citizen_id(text: str) -> bool:
    """Tell whether `text` has the pattern of a citizen id, whatever its check digit."""
    return _CITIZEN_ID.fullmatch(text) is not None


def check_citizen_id(text: str) -> None:
    """Let a citizen id (公民身份号码) pass that is well formed.

    Six digits of region, eight of birth date, three of sequence and the check
    digit. SOURCE: GB 11643-1999.

    Raises:
        ValueError: The pattern, the birth date or the check digit is wrong.
    """
    if not looks_like_citizen_id(text):
        raise ValueError("must be 17 digits and a check digit 0 to 9 or X")
    try:
        citizen_birth_date(text)
    except ValueError:
        raise ValueError("digits 7 to 14 must be a date") from None
    if citizen_check_digit(text[:17]) != text[17]:
        raise ValueError("the check digit does not fit the other digits")


def _checked(text: str) -> str:
    check_citizen_id(text)
    return text


CitizenId = Annotated[str, Field(max_length=18), AfterValidator(_checked)]
"""公民身份号码 (GB 11643) as a caller states it: its check digit fits."""


ID_KINDS: Final = ("citizen_id", "credit_code", "text")
"""What kinds of id there are, as `check_id` knows them."""


def check_id(namespace: str, text: str) -> None:
    """Let an id pass that is well formed, as its kind has it.

    Args:
        namespace: What kind of id it is, as facts of matters have: `citizen_id`,
            `credit_code`, or `text`, of which nothing can be said.
        text: The id.

    Raises:
        ValueError: There is no such kind, or the id is none of this kind.
    """
    match namespace:
        case "citizen_id":
            check_citizen_id(text)
        case "credit_code":
            check_credit_code(text)
        case "text":
            pass
        case _:
            raise ValueError("must be a `citizen_id`, a `credit_code` or a `text`")


def citizen_check_digit(first_17: str) -> str:
    """Return the check digit of a citizen id's first 17 digits.

    SOURCE: GB 11643-1999, ISO 7064 MOD 11-2.

    >>> citizen_check_digit("11010519491231002")
    'X'
    """
    pairs = zip(map(int, first_17), _CITIZEN_WEIGHTS, strict=True)
    total = sum([digit * weight for digit, weight in pairs])
    return _CITIZEN_CHECKS[total % 11]


def citizen_birth_date(citizen_id: str) -> date:
    """Return the birth date that a citizen id states.

    Raises:
        ValueError: Digits 7 to 14 are no date.
    """
    return date(int(citizen_id[6:10]), int(citizen_id[10:12]), int(citizen_id[12:14]))


def looks_like_credit_code(text: str) -> bool:
    """Tell whether `text` has the pattern of a credit code; its checks may be wrong."""
    return _CREDIT_CODE.fullmatch(text) is not None


def check_credit_code(text: str) -> None:
    """Let a unified social credit code (统一社会信用代码) pass that is well formed.

    One character of registrar, one of type, six digits of region, nine characters
    of organisation code with its own check character, and the check character.
    SOURCE: GB 32100-2015, GB 11714-1997.

    Raises:
        ValueError: The pattern or a check character is wrong.
    """
    if not looks_like_credit_code(text):
        raise ValueError("must be 18 characters of the credit code's alphabet")
    if organisation_check_character(text[8:16]) != text[16]:
        raise ValueError("character 17 does not fit the organisation code")
    if credit_check_character(text[:_CREDIT_BODY]) != text[17]:
        raise ValueError("the check character does not fit the other characters")


def credit_check_character(first_17: str) -> str:
    """Return the check character of a credit code's first 17 characters.

    SOURCE: GB 32100-2015, annex: 31 minus the sum of c(i) * 3^(i-1), modulo 31.

    >>> credit_check_character("91350100M000100Y4")
    '3'
    """
    total = sum(
        _CREDIT_ALPHABET.index(character) * pow(3, place, 31)
        for place, character in enumerate(first_17)
    )
    return _CREDIT_ALPHABET[-total % 31]


def organisation_check_character(first_8: str) -> str:
    """Return the check character of an organisation code's first 8 characters.

    SOURCE: GB 11714-1997: 11 minus the weighted sum modulo 11; 10 is X, 11 is 0.

    >>> organisation_check_character("M000100Y")
    '4'
    """
    total = sum(
        int(character, 36) * weight
        for character, weight in zip(first_8, _ORGANISATION_WEIGHTS, strict=True)
    )
    return "0123456789X"[-total % 11]


def region_contains(outer: str, inner: str) -> bool:
    """Tell whether region `inner` is `outer` or lies inside it.

    A code's pairs of zeroes say that it names the level above: `990100` is a city
    and contains `990101`, its district; `990000` is the province. Three digits of
    township and three of village may follow. `000000` is the whole country.
    SOURCE: GB/T 2260, GB/T 10114.

    >>> region_contains("990100", "990101002")
    True
    >>> region_contains("990101", "990100")
    False
    """
    return _significant(inner).startswith(_significant(outer))


def _significant(region: str) -> str:
    """Return a region's code without the zeroes that stand for no level."""
    for size in (3, 3):
        if len(region) > 6 and region.endswith("0" * size):  # noqa: PLR2004 - GB/T 2260
            region = region[:-size]
    if len(region) != 6:  # noqa: PLR2004 - a township's district is named in full
        return region
    for _ in range(3):
        region = region.removesuffix("00") if len(region) % 2 == 0 else region
    return region


def near(one: str, other: str) -> ConflictHint | None:
    """Return how two different texts nearly agree, or None when they don't.

    Nearly is one character that differs, or two neighbours that are swapped.

    >>> near("990101199207250018", "990101199207250118")
    <ConflictHint.ONE_CHARACTER: 'one_character_differs'>
    """
    if len(one) != len(other):
        return None
    differing = [
        place
        for place, pair in enumerate(zip(one, other, strict=True))
        if pair[0] != pair[1]
    ]
    match differing:
        case [_]:
            return ConflictHint.ONE_CHARACTER
        case [first, second] if (
            second == first + 1
            and one[first] == other[second]
            and one[second] == other[first]
        ):
            return ConflictHint.TRANSPOSED
        case _:
            return None
