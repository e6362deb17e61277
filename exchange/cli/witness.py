"""Commands of witnesses."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from exchange.cli.console import A_PLACE

_NEW = "nothing was cosigned yet; if that is wrong, `--data` names another file"

app = typer.Typer(help="Keep watch over the logs of others.", no_args_is_help=True)


@app.command("keygen")
def make_witness_key(
    file: Annotated[Path, typer.Argument(help="Where the private key goes.")],
    name: Annotated[
        str, typer.Option(help="The witness's name, as `audit.example/witness`.")
    ],
) -> None:
    """Make a witness's key, and print its vkey for policies."""
    from audit.witness_app import make_cosigner

    cosigner = make_cosigner(file, name, os.urandom)
    sys.stdout.write(cosigner.verifier.vkey + "\n")


@app.command("serve")
def serve_witness(
    key: Annotated[Path, typer.Option(help="The witness's private key.")],
    logs: Annotated[
        Path, typer.Option(help="A tlog-policy whose `log` lines say what to watch.")
    ],
    data: Annotated[Path, typer.Option(help="What was cosigned (SQLite).")],
    host: Annotated[
        str, typer.Option(help="The address to listen on."), A_PLACE
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8801,
) -> None:
    """Cosign the heads of logs that only grow, until told to stop."""
    from audit.witness_app import build_witness_app, open_witness
    from exchange.incoming import serve
    from exchange.listening import free_address
    from schemas.clock import SystemClock

    with free_address(host, port, "`--port`"):
        witness = open_witness(key, logs, data)
        count = witness.remembered()
        told = f"of {count} logs a head was cosigned" if count else _NEW
        sys.stderr.write(f"{data.name}: {told}\n")
        serve(build_witness_app(witness, SystemClock()), host, port)
