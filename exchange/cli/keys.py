"""Commands for the gateway's own keys."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import orjson
import typer

from exchange.cli.console import AsJson, Config, print_json, settings_of

if TYPE_CHECKING:
    from connectors.jose import SigningKey
    from exchange.settings import Settings

_Which = Literal["lookup", "token"]
"""The names of `exchange.key_change.Changeable`, which is not imported for a help."""

app = typer.Typer(help="The gateway's own keys.", no_args_is_help=True)


@app.command("make")
def make_keys(config: Config = None) -> None:
    """Make the gateway's keys that are missing, and show the public parts."""
    _show_keys(settings_of(config), make=True, as_json=False)


@app.command("show")
def show_keys(config: Config = None, *, as_json: AsJson = False) -> None:
    """Show the public parts of the gateway's keys, for others to pin."""
    _show_keys(settings_of(config), make=False, as_json=as_json)


@app.command("prepare")
def prepare(
    which: Annotated[_Which, typer.Argument(help="The key to change later.")],
    config: Config = None,
) -> None:
    """Make the key that comes next, and show its public part for others to pin."""
    from exchange.key_change import Changeable, prepare_key

    folder = settings_of(config).keys_dir
    _show_key(which, prepare_key(folder, Changeable(which), os.urandom))


@app.command("change")
def change(
    which: Annotated[_Which, typer.Argument(help="The key to change.")],
    config: Config = None,
) -> None:
    """Put the key that was prepared in place: gateways sign with it once restarted."""
    from exchange.key_change import Changeable, change_key
    from schemas.clock import SystemClock

    folder = settings_of(config).keys_dir
    _show_key(which, change_key(folder, Changeable(which), SystemClock().now()))


def _show_keys(settings: "Settings", *, make: bool, as_json: bool) -> None:
    from audit.register import load_shards
    from exchange.recording import open_gateway_keys

    shards = load_shards(settings.shards_place())
    opened = open_gateway_keys(settings, shards, os.urandom if make else None)
    shown = {
        "lookup": opened.lookup.public_jwk(),
        "token": opened.token.public_jwk(),
        "log": opened.log.log.verifier.vkey,
        "receipt": opened.log.receipt.verifier.vkey,
    }
    if as_json:
        print_json(shown)
        return
    for name, key in shown.items():
        _print_key(name, key if isinstance(key, str) else orjson.dumps(key).decode())


def _show_key(which: str, key: "SigningKey") -> None:
    _print_key(which, orjson.dumps(key.public_jwk()).decode())


def _print_key(name: str, public: str) -> None:
    sys.stdout.write(f"{name:8} {public}\n")
