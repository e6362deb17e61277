"""What every type of the domain is made of: frozen, closed, named in two languages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, PydanticKnownError
from typing_extensions import dataclass_transform

from schemas.clock import is_in_utc
from schemas.documented import Documented, describe

_T = TypeVar("_T")


class Model(Documented):
    """A frozen value that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sent(Model):
    """What a client sends as JSON: a value of another type is refused, not converted.

    `"yes"` and `1` are no booleans, `"1"` and `1.0` no whole numbers. What JSON has no
    type for says so itself: an instant as `Instant`, an enumeration or an array as
    `FROM_JSON`, an array in which nothing comes twice as `ONCE` too. Who forgets it
    refuses everything, which the first test tells.
    """

    model_config = ConfigDict(strict=True)


FROM_JSON: Final = Strict(strict=False)
"""Takes what JSON has in its place: an array for a tuple or a set, a text for a member
of an enumeration."""


def _each_once(sent: object) -> object:
    """Let an array pass in which no text comes twice.

    A set that is made of it would hide that.
    """
    if isinstance(sent, list):
        texts = [one for one in sent if isinstance(one, str)]
        if len(set(texts)) != len(texts):
            raise PydanticCustomError("not_unique", "must not have a member twice")
    return sent


ONCE: Final = BeforeValidator(_each_once)
"""Refuses an array in which a text comes twice (`uniqueItems`)."""

Once = Annotated[tuple[_T, ...], ONCE, Field(json_schema_extra={"uniqueItems": True})]
"""A list of a pack in which nothing comes twice; its order may count."""
OneOrMore = Annotated[
    tuple[_T, ...], Field(min_length=1, json_schema_extra={"uniqueItems": True}), ONCE
]
"""The same of one that must not be empty."""

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
"""SOURCE: RFC 3339, section 5.6 (`date-time`)."""


def _read_instant(sent: object) -> object:
    """Return the instant that a text names; what is no text as it is.

    Pydantic would take a number of seconds too: as text even where it is strict.
    """
    if not isinstance(sent, str):
        return sent
    if not _INSTANT.fullmatch(sent):
        raise PydanticKnownError("datetime_type")
    try:
        return datetime.fromisoformat(sent.upper())
    except ValueError:  # such as the 30th of February
        raise PydanticKnownError("datetime_type") from None


def _in_utc(instant: datetime) -> datetime:
    if not is_in_utc(instant):
        raise ValueError("must lie in the years 1 to 9999, also in UTC")
    return instant


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""An instant of a pack, with its offset, that can be written in UTC."""

Instant = Annotated[Moment, BeforeValidator(_read_instant)]
"""An instant as RFC 3339 writes it, with its offset: `2026-01-08T14:30:00+08:00`.

INVARIANT: it can be written in UTC, as every record and table writes it. At either end
of the calendar an offset leads out of it.
"""


_DATE_PART = "[0-9]+Y([0-9]+M)?([0-9]+D)?|[0-9]+M([0-9]+D)?|[0-9]+D"
_TIME_PART = "[0-9]+H([0-9]+M)?([0-9]+S)?|[0-9]+M([0-9]+S)?|[0-9]+S"
_DURATION = f"^P([0-9]+W|({_DATE_PART})(T({_TIME_PART}))?|T({_TIME_PART}))$"
"""SOURCE: ISO 8601-1, 5.5.2, in whole numbers."""


def _read_duration(sent: object) -> object:
    """Let a text pass that is a duration; pydantic would take `5 days` too."""
    if isinstance(sent, str) and not re.fullmatch(_DURATION, sent):
        raise PydanticKnownError("string_pattern_mismatch", {"pattern": _DURATION})
    return sent


_Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    WithJsonSchema({"type": "string", "format": "duration", "pattern": _DURATION}),
]


def _lasting(days: int) -> AfterValidator:
    """Take durations that are longer than nothing and no longer than so many days."""

    def check(span: timedelta) -> timedelta:
        if span <= timedelta(0):
            raise PydanticCustomError("too_short", "must be longer than nothing")
        if span > timedelta(days=days):
            said = {"days": days}
            raise PydanticCustomError(
                "too_long", "must be no longer than {days} days", said
            )
        return span

    return AfterValidator(check)


MOST_DAYS: Final = 36_525
"""A hundred years: the longest duration or time limit that a pack may name."""
Span = Annotated[_Duration, _lasting(MOST_DAYS)]
"""A duration, ISO 8601: longer than nothing, at most a hundred years (`P36525D`). A
month counts 30 days, a year 365.

INVARIANT: added to an instant of now it stays within the calendar.
"""
MOST_PERIOD_DAYS: Final = 366
Period = Annotated[_Duration, _lasting(MOST_PERIOD_DAYS)]
"""A period of a quota, ISO 8601: longer than nothing, at most 366 days."""


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(field,)
)
def value(cls: type[_T]) -> type[_T]:
    """Make a class of values that the exchange itself makes, by the dozen for a case.

    A value is frozen for the type checker, which refuses to set a field of it. At run
    time it is a plain dataclass: `frozen` there costs a call for each field, `slots`
    makes writing it as JSON four times slower, and parsing what comes from our own
    code five times as much again. Where a stored value is read back, pydantic parses
    it strictly, by the settings that are put on it here.
    """
    made = dataclass(kw_only=True)(cls)
    made.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined] # pydantic's own way for dataclasses
        extra="forbid", strict=True
    )
    made.__get_pydantic_json_schema__ = classmethod(describe)  # type: ignore[attr-defined] # likewise
    return made


_UNSEEN = r"\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
"""Control characters, line breaks, and signs without width or that turn the direction
of what follows: with these a name would not be what it looks like."""
_SHOWN = rf"^[^{_UNSEEN}\s][^{_UNSEEN}]*$"
_LINES = rf"^[^{_UNSEEN}\s]([^{_UNSEEN}]|\n)*$"
FORMS: Final[Mapping[str, str]] = {
    _SHOWN: "one line that begins with a visible sign and has no hidden one",
    _DURATION: "a duration in whole numbers (ISO 8601), such as `P5D` for five days or "
    "`PT12H` for twelve hours",
    _LINES: "a text that begins with a visible sign and has no hidden one",
}
"""Patterns of packs → what a text must be, in words."""

MOST_SHOWN: Final = 200
MOST_WORDING: Final = 4_000
Shown = Annotated[str, StringConstraints(pattern=_SHOWN, max_length=MOST_SHOWN)]
"""A line that people read: not blank, and nothing in it that they can't see."""
_Lines = Annotated[str, StringConstraints(pattern=_LINES, max_length=MOST_WORDING)]


class Name(Model):
    """What people call a thing, in both languages."""

    zh: Shown
    en: Shown


class Wording(Model):
    """What people read in both languages, in one line or several."""

    zh: _Lines
    en: _Lines


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""The id of a thing that a pack declares."""

Concept = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")
]
"""One named fact: `<role>.<fact>`, such as `mother.id` (CCCEV InformationConcept).

In an evidence type the role `self` is the person whom the evidence is about.
"""

MOST_PORT: Final = 65_535
"""The largest port there is (RFC 9293, section 3.1: 16 bits)."""
Port = Annotated[int, Field(ge=1, le=MOST_PORT)]
"""A port that a service listens on."""

Version = Annotated[int, Field(ge=1, le=999_999)]
"""The version of a thing: a new one where what it means changes."""

VersionedId = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}@[1-9][0-9]{0,5}$")
]
"""`id@version`, such as `newborn@1`."""

Expression = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
"""A condition in CEL over the answers and concepts of a matter."""

RegionCode = Annotated[str, StringConstraints(pattern=r"^[0-9]{6}([0-9]{3}){0,2}$")]
"""Division code (GB/T 2260), with township and village (GB/T 10114) where known."""
