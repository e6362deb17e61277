"""What the commands share: options, tokens, tables, exit statuses."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from schemas.errors import ErrandError

if TYPE_CHECKING:
    from rich.table import Table

    from connectors.jose import SigningKey
    from exchange.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings (YAML); else `ERRAND_CONFIG` names them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Url = Annotated[str, typer.Option(help="Where the gateway's API is.")]
ClientName = Annotated[str, typer.Option("--client", help="The client's id.")]
KeyFile = Annotated[Path, typer.Option(help="The client's private key (PEM).")]
AboutSubject = Annotated[
    bool, typer.Option("--subject", help="Read whom it is about from stdin.")
]


class Exit(StrEnum):
    """What the exit status tells a program."""

    WRONG = "1"
    """What was checked does not hold."""
    UNUSABLE = "2"
    """The command could not be carried out."""


def settings_of(config: Path | None) -> "Settings":
    """Return the settings in a file, or where `ERRAND_CONFIG` says.

    Raises:
        SettingsError: They are wrong.
    """
    from exchange.settings import read_settings

    return read_settings(config, os.environ)


def get_token(url: str, client: str, key_file: Path, scope: str) -> str:
    """Return a fresh access token."""
    import httpx

    from exchange.assertions import client_assertion
    from exchange.identity import TOKEN_PATH
    from exchange.token_request import ASSERTION_TYPE
    from schemas.clock import SystemClock
    from schemas.ids import new_ids

    key: SigningKey = _client_key(key_file)
    clock = SystemClock()
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": client_assertion(
            client, key, url + TOKEN_PATH, jti=new_ids(clock)(), now=clock.now()
        ),
        "scope": scope,
    }
    try:
        answer = httpx.post(url + TOKEN_PATH, data=form)
    except httpx.TransportError as error:
        raise ErrandError(f"the gateway at {url} can't be reached") from error
    told = answer.json()
    if answer.status_code != httpx.codes.OK:
        reason = told.get("error_description") or told.get("title")
        raise ErrandError(f"no token: {reason}")
    granted: str = told["access_token"]
    return granted


def _client_key(key_file: Path) -> "SigningKey":
    from connectors.jose import SigningKey

    return SigningKey.from_file(key_file)


def get_json(url: str, headers: dict[str, str], params: dict[str, str]) -> Any:  # noqa: ANN401 - JSON of the API
    """Return what the gateway answers, as JSON.

    Raises:
        ErrandError: It can't be reached, or answers with a problem.
    """
    return _ask("GET", url, headers=headers, params=params)


def post_json(url: str, headers: dict[str, str], body: dict[str, object]) -> Any:  # noqa: ANN401 - as above
    """Send a body, and return what the gateway answers, as JSON.

    Raises:
        ErrandError: As for `get_json`.
    """
    return _ask("POST", url, headers=headers, json=body)


def _ask(method: str, url: str, **request: Any) -> Any:  # noqa: ANN401 - as httpx has it
    import httpx

    try:
        answer = httpx.request(method, url, **request)
    except httpx.TransportError as error:
        raise ErrandError(f"the gateway at {url} can't be reached") from error
    told = answer.json()
    if answer.is_error:
        raise ErrandError(f"{told.get('title')}: {told.get('detail', told['type'])}")
    return told


def read_subject_id() -> str:
    """Return the id on standard input: shells and process lists keep arguments."""
    return sys.stdin.readline().strip()


def given(**conditions: str | None) -> dict[str, str]:
    """Return the conditions of a search that were given."""
    return {name: value for name, value in conditions.items() if value is not None}


def make_table(title: str, *columns: str) -> "Table":
    """Return an empty table for people."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def print_table(table: "Table") -> None:
    """Print a table as wide as the terminal."""
    from rich.console import Console

    Console().print(table, markup=False)


def print_json(value: object) -> None:
    """Print a value for programs."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
