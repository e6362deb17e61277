"""What is written under the fields of a class stands in its JSON Schema."""

from pydantic import Field, TypeAdapter, create_model

from schemas.documented import said_under
from schemas.model import Model, value


class Asked(Model):
    """A question."""

    first: int
    """Counts
    from one."""
    second: str = Field(description="Said in the field itself.")
    """Not taken."""
    third: int = 0


class AskedLater(Asked):
    """A question that says more."""

    first: int
    """Counts from two."""
    fourth: Asked
    """The one before."""


@value
class Made:
    """A value of our own."""

    first: int
    """Counts from one."""


def _described(kind: type) -> dict[str, str | None]:
    members = TypeAdapter[object](kind).json_schema()["properties"]
    return {name: one.get("description") for name, one in members.items()}


def test_a_field_is_described_by_what_stands_under_it() -> None:
    """What the field says itself comes first."""
    assert {
        "first": "Counts\nfrom one.",
        "second": "Said in the field itself.",
        "third": None,
    } == _described(Asked)
    assert {"first": "Counts from one."} == _described(Made)


def test_a_class_says_what_its_bases_say_and_may_say_it_anew() -> None:
    """Also where it is made of another, or was written by no one."""
    made = create_model("Made", __base__=Asked, last=int)

    assert "Counts from two." == _described(AskedLater)["first"]
    assert "The one before." == _described(AskedLater)["fourth"]
    assert "Said in the field itself." == _described(AskedLater)["second"]
    assert said_under(Asked) == said_under(made)
    assert "Counts\nfrom one." == _described(made)["first"]
