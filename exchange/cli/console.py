"""What the commands share: options, tokens, tables, exit statuses."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import os
import re
import sys
from collections.abc import Collection
from contextlib import closing
from datetime import UTC, datetime
from enum import IntEnum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from schemas.errors import ErrandError

if TYPE_CHECKING:
    from rich.table import Column, Table

    from audit.bounded import Answer
    from exchange.settings import Settings

A_PLACE: Final = "a file or an address"
"""Marks text that names one (a `Path` always does): a message may repeat it, but for an
id that stands in it (`exchange.cli.failing`)."""
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings (YAML); else `ERRAND_CONFIG` names them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_READ_S = 5.0
"""How long each read of an answer may take, in seconds."""
_TOTAL_S = 60.0
"""How long an answer may take, in seconds."""
_ANSWER_LIMIT = 32 << 20
"""Largest answer that is read, in bytes: a page of a thousand records."""

_ADDRESS = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")


def _read_url(text: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        ErrandError: It is none.
    """
    if not _ADDRESS.fullmatch(text):
        raise ErrandError(
            "`--url` is an address such as `https://errand.example`: it begins with "
            "`http://` or `https://`, and has no `?` or `#`"
        )
    return text.rstrip("/")


Url = Annotated[
    str,
    typer.Option(help="Where the gateway's API is.", callback=_read_url),
    A_PLACE,
]
ClientName = Annotated[str, typer.Option("--client", help="The client's id.")]
KeyFile = Annotated[Path, typer.Option(help="The client's private key (PEM).")]
AboutSubject = Annotated[
    bool, typer.Option("--subject", help="Read whom it is about from stdin.")
]


def _read_instant(option: typer.CallbackParam, text: str | None) -> str | None:
    """Return an instant as the API takes it (RFC 3339).

    Raises:
        ErrandError: It is none, or says nothing of its offset.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ErrandError(
            f"`--{option.name}` is an instant, as 2026-07-01T00:00:00+08:00"
        )
    return found.isoformat()


OfRequester = Annotated[
    str | None, typer.Option("--requester", help="Who asked, by its id.")
]
OfProvider = Annotated[
    str | None, typer.Option("--provider", help="Which department was asked.")
]
OfMatter = Annotated[
    str | None, typer.Option("--matter", help="For which matter, as `newborn@1`.")
]
OfCase = Annotated[str | None, typer.Option("--case", help="In which case, by its id.")]
OfOutcome = Annotated[
    str | None, typer.Option("--outcome", help="What came of it (docs/records.md).")
]
OfKind = Annotated[
    str | None, typer.Option("--kind", help="The kind of record (docs/records.md).")
]
Since = Annotated[
    str | None,
    typer.Option(
        help="From this instant on, as 2026-07-01T00:00:00+08:00.",
        callback=_read_instant,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(help="Before this instant, likewise.", callback=_read_instant),
]


class Exit(IntEnum):
    """What the exit status tells a program."""

    WRONG = 1
    """What was checked does not hold."""
    UNUSABLE = 2
    """The command could not be carried out."""


def settings_of(config: Path | None) -> "Settings":
    """Return the settings in a file, or where `ERRAND_CONFIG` says.

    Raises:
        SettingsError: They are wrong.
    """
    from exchange.settings import read_settings

    return read_settings(config, os.environ)


def get_token(url: str, client: str, key_file: Path, scope: str) -> str:
    """Return a fresh access token.

    Raises:
        ErrandError: None came.
    """
    from connectors.jose import SigningKey
    from exchange.assertions import client_assertion
    from exchange.identity import TOKEN_PATH
    from exchange.token_request import ASSERTION_TYPE
    from schemas.clock import SystemClock
    from schemas.ids import new_ids

    key = SigningKey.from_file(key_file)
    clock = SystemClock()
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": client_assertion(
            client, key, url + TOKEN_PATH, jti=new_ids(clock)(), now=clock.now()
        ),
        "scope": scope,
    }
    answer = _exchange("POST", url + TOKEN_PATH, data=form)
    told = _json_of(answer)
    reason = told.get("error_description") or told.get("title")
    if answer.status == HTTPStatus.NOT_FOUND or not told.keys() & _OF_TOKENS:
        reason = f"no gateway answers at {url} (HTTP {answer.status})"
    elif "`aud`" in str(reason):  # which the address that was given has become
        reason = f"{reason}: give the gateway's public address with `--url`"
    if "access_token" not in told:
        raise ErrandError(f"no token: {reason}")
    granted: str = told["access_token"]
    return granted


_OF_TOKENS = {"access_token", "error", "title"}
"""What a gateway's answer about a token has one of."""


def _json_of(answer: "Answer") -> dict[str, Any]:
    """Return an answer's JSON object; empty for anything else."""
    try:
        told = orjson.loads(answer.content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def get_json(url: str, headers: dict[str, str], params: dict[str, str]) -> Any:  # noqa: ANN401 - JSON of the API
    """Return what the gateway answers, as JSON.

    Raises:
        ErrandError: No answer comes, or one with a problem, or that points elsewhere.
    """
    return _ask("GET", url, headers=headers, params=params)


def post_json(url: str, headers: dict[str, str], body: dict[str, object]) -> Any:  # noqa: ANN401 - as above
    """Send a body, and return what the gateway answers, as JSON.

    Raises:
        ErrandError: As for `get_json`.
    """
    return _ask("POST", url, headers=headers, json=body)


def _ask(method: str, url: str, **request: Any) -> Any:  # noqa: ANN401 - as httpx has it
    answer = _exchange(method, url, **request)
    told = _json_of(answer)
    if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        raise ErrandError(_problem(told) or f"{url}: HTTP {answer.status}")
    return told


def _exchange(method: str, url: str, **request: Any) -> "Answer":  # noqa: ANN401 - as above
    """Return what a gateway answers, which need not be our own.

    Raises:
        ErrandError: No whole answer came within the bounds.
    """
    from audit.bounded import Bounds, Exchanges
    from schemas.errors import StoreUnavailableError

    bounds = Bounds(_READ_S, _TOTAL_S, _ANSWER_LIMIT)
    with closing(Exchanges(bounds, trust_env=True)) as exchanges:
        try:
            return exchanges.ask(method, url, **request)
        except StoreUnavailableError as error:
            raise ErrandError(f"no answer came from {url} ({error})") from None


def _problem(told: dict[str, Any]) -> str:
    """Return a problem (RFC 9457) in one line: title, detail, and each wrong place.

    No value of the request stands in it (`exchange.api.problems`).
    """
    wrong = [
        f"{one.get('pointer') or one.get('header') or one.get('parameter') or 'it'}: "
        f"{one.get('detail')}"
        for one in told.get("errors", ())
    ]
    parts = [told.get("title"), told.get("detail"), "; ".join(wrong)]
    return ": ".join(part for part in parts if part)


def read_subject_id() -> str:
    """Return the id on standard input: shells and process lists keep arguments.

    Raises:
        ErrandError: There is none.
    """
    text = sys.stdin.readline().strip()
    if not _ID.fullmatch(text):
        raise ErrandError("standard input has no id: one line, without spaces")
    return text


_ID = re.compile(r"[\x21-\x7e]{1,64}")


def given(**conditions: str | None) -> dict[str, str]:
    """Return the conditions of a search that were given."""
    return {name: value for name, value in conditions.items() if value is not None}


def check_span(since: str | None, until: str | None) -> None:
    """Refuse a time in which nothing can have happened; both as they were read.

    Raises:
        ErrandError: It ends before it begins.
    """
    if since is None or until is None:
        return
    if datetime.fromisoformat(since) >= datetime.fromisoformat(until):
        raise ErrandError("`--since` must be before `--until`")


def make_table(title: str, *columns: str, kept: Collection[str] = ()) -> "Table":
    """Return an empty table for people.

    Args:
        title: What it shows.
        columns: Their headers.
        kept: Those whose cells are never wrapped, since the next command takes them.
    """
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in kept)
    return table


def in_utc(seconds: int) -> str:
    """Return an instant for people, such as `2026-01-08 06:30:00`.

    Args:
        seconds: Since 1970.
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_table(table: "Table") -> None:
    """Print a table as wide as the terminal, or as what must stay whole takes."""
    from rich.console import Console

    console = Console()
    least = sum(_least_width(column) for column in table.columns)
    console.width = max(console.width, least + 3 * len(table.columns) + 1)
    console.print(table, markup=False)


def _least_width(column: "Column") -> int:
    """Return how narrow a column may be: what wraps does so at a few characters."""
    from rich.cells import cell_len

    cells = [str(column.header), *map(str, column.cells)]
    widest = max(cell_len(line) for cell in cells for line in cell.split("\n"))
    return widest if column.no_wrap else min(widest, _NARROWEST)


_NARROWEST = 10
"""Characters of a column that wraps."""


def print_json(value: object) -> None:
    """Print a value for programs."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
