"""Commands for departments."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli.console import AsJson, Exit, make_table, print_json, print_table

if TYPE_CHECKING:
    from connectors.conformance import Result

app = typer.Typer(help="The service that a department runs.", no_args_is_help=True)
log = typer.Typer(help="The department's own log.", no_args_is_help=True)
app.add_typer(log, name="log")


_UNJUDGED = "values and their age are not judged: `published` names no evidence type\n"


@app.command("serve")
def serve_department(
    config: Annotated[Path, typer.Option(help="The department's configuration.")],
) -> None:
    """Run the service beside a register until it is told to stop."""
    from connectors.department.app import build_app
    from connectors.department.config import load_config
    from exchange.incoming import serve
    from exchange.listening import check_certificate, free_address

    read = load_config(config)
    listen = read.listen
    if listen.certificate is not None and listen.certificate_key is not None:
        check_certificate(listen.certificate, listen.certificate_key)
    with free_address(listen.host, listen.port, "`listen.port`"):
        serve(
            build_app(read),
            listen.host,
            listen.port,
            certificate=listen.certificate,
            key=listen.certificate_key,
        )


@app.command("keygen")
def make_department_key(
    file: Annotated[Path, typer.Argument(help="Where the private key goes (PEM).")],
    *,
    as_json: AsJson = False,
) -> None:
    """Make a key that signs, and print the public part for the packs to pin."""
    from connectors.department.signing import generate_key

    key = generate_key(file)
    pinned = key.pinned(datetime.now(UTC).replace(microsecond=0))  # noqa: TID251 - the key begins now
    if as_json:
        print_json(pinned.model_dump(mode="json", exclude_none=True))
        return
    import yaml

    sys.stdout.write(
        yaml.safe_dump([pinned.model_dump(mode="json", exclude_none=True)])
    )


@app.command("try")
def try_department(
    target: Annotated[
        Path, typer.Argument(help="What to try, as docs/provider-protocol.md says.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Check that a department speaks the protocol: status 1 where it does not."""
    import asyncio

    from connectors.conformance import Kit, run
    from connectors.target import load_target
    from schemas.clock import SystemClock
    from schemas.ids import new_ids

    clock = SystemClock()
    kit = Kit(load_target(target), clock, new_ids(clock), os.urandom)
    if kit.target.published is None:
        sys.stderr.write(_UNJUDGED)

    async def tried() -> "tuple[Result, ...]":
        try:
            return await run(kit)
        finally:
            await kit.aclose()

    results = asyncio.run(tried())
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        table = make_table("The provider protocol", "check", "", "reason")
        for one in results:
            table.add_row(one.check, "✓" if one.passed else "✗", one.reason)
        print_table(table)
    if not all(result.passed for result in results):
        raise typer.Exit(Exit.WRONG)


@log.command("verify")
def verify_department_log(
    file: Annotated[Path, typer.Argument(help="The log, or a copy of it (SQLite).")],
    *,
    head: Annotated[
        str | None,
        typer.Option(help="A head printed earlier, as COUNT:HASH: a cut shows."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the hash chain of what was asked and answered, and print its head.

    Status 1 where it fails, 2 where nothing could be verified.
    """
    from connectors.department.log import parse_head, verify_log
    from schemas.errors import ErrandError

    try:
        kept = None if head is None else parse_head(head)
    except ValueError as error:
        raise ErrandError(f"`--head`: {error}") from None
    found = verify_log(file, kept)
    if as_json:
        print_json({"entries": found.count, "head": found.as_text()})
        return
    table = make_table("The department's log", "entries", "head", kept=("head",))
    table.add_row(str(found.count), found.as_text())
    print_table(table)
