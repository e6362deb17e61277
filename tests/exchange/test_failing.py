"""What a failing command hides of its arguments; no server beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.core import TyperArgument, TyperOption

from connectors.department.config import load_config
from connectors.target import load_target
from exchange.__main__ import app
from exchange.cli.failing import places_of, taking_places, tell, without_values
from schemas.errors import ErrandError
from tests.harness.commands import every_command

_SHORTEST_ID = 15
"""Beside a `/` a shorter number may be a date in the name of a file."""


@given(
    st.one_of(
        st.from_regex(r"[0-9]{6}[0-9X]{0,12}", fullmatch=True),
        st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1),
    ),
    st.sampled_from(
        (
            *("{}", "mother.id={}", "--stated={}", "--stated=mother.id={}"),
            *("林晓云/{}", "{}/x", "--stated=mother.id={}/x"),
        )
    ),
)
def test_what_could_be_a_value_is_hidden_in_any_message(value: str, form: str) -> None:
    """Wherever the message has it, and in whatever argument it came."""
    assume("/" not in form or not value.isascii() or len(value) >= _SHORTEST_ID)
    argument = form.format(value)
    told = without_values(f"`{argument}` is wrong: `{value}`", [argument])

    assert value not in told


@pytest.mark.parametrize(
    "argument", ["http://127.0.0.1:8800", "/srv/20260108/a.yaml", "newborn@1", "--x"]
)
def test_addresses_files_and_names_stay_in_messages(argument: str) -> None:
    """Whoever reads them has to know which one is meant."""
    assert f"no {argument}" == without_values(f"no {argument}", [argument])


@pytest.mark.parametrize(
    "line",
    [
        ("audit", "shards", "list-20261123.json"),
        ("token", "auditor", "--url=http://127.0.0.1:9"),
        ("serve", "--config=none.yaml"),
        ("serve", "--config", "none-20261123.yaml"),
    ],
)
def test_what_a_command_takes_as_a_file_or_an_address_is_named(
    line: tuple[str, ...],
) -> None:
    """Whatever it looks like; but for an id that stands in it."""
    command = typer.main.get_command(app)
    name = line[-1].rpartition("=")[2]
    with_id = (*line[:-1], "990101199403120026")

    assert f"errand: `{name}`\n" == tell(ErrandError(f"`{name}`"), line, command)[0]
    assert "errand: `*`\n" == tell(ErrandError(f"`{with_id[-1]}`"), with_id, command)[0]


@pytest.mark.parametrize(
    "line",
    [
        ("audit", "shards", "postgresql://errand:planted@db.example/x"),
        ("audit", "verify", "--subjects=postgresql:/errand:planted@db/x"),
        ("serve", "--no-such=postgres//errand:planted@db/x"),
    ],
)
def test_a_password_in_an_address_is_hidden(line: tuple[str, ...]) -> None:
    """Also where a file was wanted, whose name is told as the system writes it."""
    error = FileNotFoundError(2, "not there", str(Path(line[-1].rpartition("=")[2])))
    told, _ = tell(error, line, typer.main.get_command(app))

    assert "planted" not in told
    assert "/*" in told


@pytest.mark.parametrize(
    ("line", "places"),
    [
        ("audit accuse a.note 20261123.note", {"a.note", "20261123.note"}),
        ("audit prove --sizes 10 20 log-20261123.db", {"log-20261123.db"}),
        ("audit verify --vkey k -- log-20261123", {"log-20261123"}),
        ("audit verify --receipt a --receipt=b log --json", {"a", "b", "log"}),
        ("audit verify log --born=19940312", set()),
    ],
)
def test_places_are_read_as_the_command_reads_them(line: str, places: set[str]) -> None:
    """Several to an argument, two to an option, and all that follows `--`."""
    assert places == places_of(typer.main.get_command(app), line.split())


_NO_PLACES = {
    *("answer", "case", "client", "event", "kind", "matter", "name", "namespace"),
    *("head", "outcome", "provider", "ref", "requester", "scope", "shard", "stated"),
    *("after", "key", "reason", "receipt_key", "since", "until", "vkey"),
}
"""Text that names neither a file nor an address."""


def test_each_text_of_a_command_is_known_to_be_a_place_or_none() -> None:
    """Whoever adds an option decides what of it a message may repeat."""
    others = {
        one.name
        for _, command in every_command()
        for one in command.params
        if isinstance(one, TyperArgument | TyperOption)
        and "str" in str(one.type_descriptor.annotation)
        and one.name not in taking_places(command)
    }

    assert others == _NO_PLACES


@pytest.mark.parametrize(
    ("load", "line"),
    [
        (load_config, ("department", "serve", "--config", "不在.yaml")),
        (load_target, ("department", "try", "不在.yaml")),
    ],
)
def test_what_a_department_lacks_is_named_in_any_script(
    load: Callable[[Path], object], line: tuple[str, ...]
) -> None:
    """As where the system itself says so."""
    with pytest.raises(FileNotFoundError) as refused:
        load(Path(line[-1]))

    told, _ = tell(refused.value, line, typer.main.get_command(app))
    assert "errand: `不在.yaml`: No such file or directory\n" == told


def test_a_file_is_named_by_the_system_in_any_script() -> None:
    """Whoever reads it has to know which one is not there."""
    error = FileNotFoundError(2, "No such file", "不在.txt")

    assert ("errand: `不在.txt`: No such file\n", 2) == tell(error, ["不在.txt"])
