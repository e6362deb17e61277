"""The command line: `errand`, for operators, departments, auditors and developers.

Every command prints a table for people, or JSON with `--json`. No command takes a
person's id as an argument, which a shell would keep: it is read from standard input.
Modules are imported inside the commands, so that `errand --help` answers at once.
"""

# ruff: noqa: PLC0415 - see above: a command imports what it runs

import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import orjson
import typer
from typer.core import TyperGroup

from exchange.cli import (
    audit,
    department,
    exporting,
    keys,
    pack,
    receipts,
    records,
    witness,
)
from exchange.cli.console import (
    AsJson,
    ClientName,
    Config,
    KeyFile,
    Url,
    get_token,
    print_json,
    print_table,
    settings_of,
)
from exchange.cli.failing import tell

# A traceback with the values of variables could show a person's.
app = typer.Typer(
    name="errand",
    help="An exchange between government departments: the data runs the errand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
audit.app.add_typer(records.app)
audit.app.add_typer(exporting.app)
audit.app.add_typer(receipts.app)
for _name, _group in (
    ("department", department.app),
    ("audit", audit.app),
    ("pack", pack.app),
    ("keys", keys.app),
    ("witness", witness.app),
):
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command line; an error of ours is one line and an exit status."""
    try:
        # The parser's own errors come here as well: it would repeat what was typed.
        sys.exit(_command_line()(standalone_mode=False) or 0)
    except typer.Abort:
        sys.exit(130)  # as a shell says of what Ctrl-C has ended
    except Exception as error:  # noqa: BLE001 - the last one that can tell
        told, status = tell(error, sys.argv[1:], _command_line())
        sys.stderr.write(told)
        sys.exit(status)


@cache
def _command_line() -> TyperGroup:
    """Return all commands; to put them together takes longer than many of them run."""
    return typer.main.get_group(app)


@app.command()
def serve(config: Config = None) -> None:
    """Run the gateway until it is told to stop."""
    from exchange.app import serve as serve_gateway

    serve_gateway(settings_of(config))


@app.command()
def publish(config: Config = None) -> None:
    """Publish the heads of a log on PostgreSQL, beside a fleet of gateways."""
    import signal
    import threading

    from exchange.publishing import publish_until
    from exchange.telemetry import configure_logs
    from schemas.clock import SystemClock

    settings = settings_of(config)
    configure_logs(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    publish_until(settings, SystemClock(), stop.wait)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
def demo(context: typer.Context) -> None:
    """Run a newborn's case through seven departments, and check all of it."""
    from exchange.cli.demo import demo as command

    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(command)
    run = typer.main.get_command(inner).main
    status = run(context.args, prog_name="errand demo", standalone_mode=False)
    raise typer.Exit(status or 0)


@app.command(hidden=True)
def openapi() -> None:
    """Print the OpenAPI document, for `docs/openapi.json`."""
    from exchange.app import build_app
    from exchange.settings import parse_settings

    document = build_app(parse_settings("", {}, Path())).openapi()
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    sys.stdout.write(orjson.dumps(document, option=options).decode() + "\n")


@app.command()
def token(
    scope: Annotated[
        str, typer.Argument(help="Such as `portal:newborn_registration`.")
    ],
    client: ClientName,
    key_file: KeyFile,
    url: Url = "http://127.0.0.1:8800",
) -> None:
    """Get an access token and print it, for use with curl."""
    sys.stdout.write(get_token(url, client, key_file, scope) + "\n")


@app.command()
def explain(
    matter: Annotated[str, typer.Argument(help="As `newborn@1`.")],
    *,
    answer: Annotated[
        list[str] | None, typer.Option(help="An answer, as `parents_married=true`.")
    ] = None,
    stated: Annotated[
        list[str] | None,
        typer.Option(help="A fact that the portal states, as `mother.id`; no value."),
    ] = None,
    requester: Annotated[
        str | None, typer.Option(help="Who asks; else whoever has grants.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what a case would ask, of whom, on which basis: nobody is asked."""
    from exchange.office import read_pack
    from exchange.rehearsal import explain_offline, show_explanation

    found = read_pack(settings_of(config).packs)
    explained = explain_offline(
        found, matter, answers=answer or (), stated=stated, requester=requester
    )
    if as_json:
        print_json(explained.model_dump(mode="json"))
        return
    for table in show_explanation(explained):
        print_table(table)


if __name__ == "__main__":
    main()
