"""Commands that look into an access log."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from exchange.cli.console import (
    AsJson,
    ClientName,
    Exit,
    KeyFile,
    Url,
    get_json,
    get_token,
    make_table,
    print_json,
    print_table,
)
from schemas.errors import ErrandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from audit.demands import Demands
    from schemas.canonical import Json

app = typer.Typer(help="Look into an access log.", no_args_is_help=True)


Where = Annotated[
    str, typer.Argument(help="Its address, a folder as served or of data, or its file.")
]
LogKey = Annotated[
    str,
    typer.Option("--vkey", "--key", help="The log's vkey, as `errand keys show`."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="An access token, for a log with entries for members."),
]


@app.command("verify")
def verify_audit(  # noqa: PLR0913 - what one verification may demand
    log: Where,
    vkey: LogKey,
    *,
    policy: Annotated[
        Path | None, typer.Option(help="A tlog-policy: who must have cosigned.")
    ] = None,
    receipt: Annotated[
        list[Path] | None, typer.Option(help="A receipt that must be kept.")
    ] = None,
    receipt_key: Annotated[
        str | None, typer.Option(help="The vkey that receipts are signed with.")
    ] = None,
    form: Annotated[
        Literal["auto", "records", "any"],
        typer.Option(help="What entries are; `auto` is as the first one is."),
    ] = "auto",
    state: Annotated[
        Path | None,
        typer.Option(help="Remembers what is verified: a later run goes on from it."),
    ] = None,
    keys_folder: Annotated[
        Path | None,
        typer.Option("--keys", help="The log's own keys: opens every section."),
    ] = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify a log: every entry, tile and root, signatures, cosignatures, receipts.

    Of the log's own file also what stands beside each leaf. Status 1 where it fails.
    """
    from audit.demands import Demands, Form
    from audit.policy import parse_policy

    demands = Demands(
        vkey=vkey,
        form=Form(form),
        policy=None if policy is None else parse_policy(policy.read_text("utf-8")),
        receipts=[file.read_bytes() for file in receipt or ()],
        receipt_vkey=receipt_key,
    )
    found = _verify(log, demands, state, keys_folder, _read_token(token_file))
    _show_found(found, as_json=as_json)


def _verify(
    log: str,
    demands: "Demands",
    state: Path | None,
    keys_folder: Path | None,
    token: str | None,
) -> "Mapping[str, Json]":
    """Verify a log where it is kept or as it is served, whichever is named."""
    from audit.fetching import fetching, is_address, stored_log
    from audit.keys import load_keys
    from audit.verify import verify_stored
    from audit.verify_served import verify_served

    stored = stored_log(log)
    if keys_folder is not None and stored is None:
        raise ErrandError("sections stand in the log's own file: give that")
    with ExitStack() as stack:
        if stored is not None:
            keys = None if keys_folder is None else load_keys(keys_folder)
            progress = stack.enter_context(_progress())
            return verify_stored(
                stored, demands, keys=keys, progress=progress, state_file=state
            ).as_json()
        fetch = stack.enter_context(fetching(log, token))
        return verify_served(
            fetch,
            demands,
            stack.enter_context(_progress()),
            state_file=state,
            at_once=is_address(log),
        ).as_json()


@app.command("fsck")
def fsck_log(
    log: Where, vkey: LogKey, *, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Compute every tile and the root anew from the entries, and compare them."""
    from audit.fetching import fetching
    from audit.fsck import check_log

    with (
        fetching(log, _read_token(token_file)) as fetch,
        _progress() as progress,
    ):
        found = check_log(fetch, vkey, progress).as_json()
    _show_found(found, as_json=as_json)


def _read_token(file: Path | None) -> str | None:
    return None if file is None else file.read_text(encoding="ascii").strip()


@contextmanager
def _progress() -> "Iterator[Callable[[int, int], None]]":
    """Show a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("entries", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _show_found(found: "Mapping[str, Json]", *, as_json: bool) -> None:
    """Show what was found to hold."""
    if as_json:
        print_json({"verified": True, **found})
        return
    shown = make_table("The log holds", "what", "found")
    for name, value in found.items():
        shown.add_row(
            name.replace("_", " "), "" if isinstance(value, dict) else str(value)
        )
        for part, count in value.items() if isinstance(value, dict) else ():
            shown.add_row(f"  {part}", str(count))
    print_table(shown)


@app.command("export")
def export_log(
    log: Annotated[
        str, typer.Argument(help="A data folder, a log's file, or its database.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
) -> None:
    """Write the published log as static files: any web server can serve them."""
    from audit.fetching import stored_log
    from audit.served import export_pieces
    from audit.store import LogReader

    stored = stored_log(log)
    if stored is None:
        raise ErrandError(f"there is no log at `{Path(log).name}`")
    reader = LogReader.open(stored)
    try:
        size = export_pieces(reader, folder)
    finally:
        reader.close()
    sys.stdout.write(f"{size} entries\n")


@app.command("query")
def query_audit(  # noqa: PLR0913 - the conditions of one question
    client: ClientName,
    key_file: KeyFile,
    *,
    url: Url = "http://127.0.0.1:8800",
    subject: Annotated[
        bool, typer.Option("--subject", help="Read whom it is about from stdin.")
    ] = False,
    requester: str | None = None,
    provider: str | None = None,
    matter: str | None = None,
    case: str | None = None,
    outcome: str | None = None,
    kind: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 50,
    as_json: AsJson = False,
) -> None:
    """Ask a running gateway who asked what; the question becomes a record."""
    conditions = {
        "requester": requester,
        "provider": provider,
        "matter": matter,
        "case": case,
        "outcome": outcome,
        "kind": kind,
        "since": since,
        "until": until,
        "limit": str(limit),
    }
    headers = {"authorization": f"Bearer {get_token(url, client, key_file, 'auditor')}"}
    if subject:
        # Not an argument: shells and process lists would keep it.
        headers["errand-subject"] = f"citizen_id:{sys.stdin.readline().strip()}"
    params = {name: value for name, value in conditions.items() if value is not None}
    page = get_json(f"{url}/v1/audit/records", headers, params)
    if as_json:
        print_json(page)
        return
    table = make_table(
        "Records", "index", "at", "kind", "outcome", "requester", "provider", "type"
    )
    for row in page["records"]:
        at = datetime.fromtimestamp(row["at_ms"] / 1000, UTC).isoformat(" ", "seconds")
        table.add_row(
            str(row["index"]),
            at.removesuffix("+00:00"),
            row["kind"],
            row["outcome"],
            row["requester"],
            row["provider"],
            row["evidence_type"],
        )
    print_table(table)


@app.command("receipt")
def audit_receipt(
    event: Annotated[str, typer.Argument(help="The record's event id.")],
    client: ClientName,
    key_file: KeyFile,
    url: Url = "http://127.0.0.1:8800",
    scope: str = "auditor",
) -> None:
    """Get the receipt of a record and its proof, as JSON."""
    bearer = f"Bearer {get_token(url, client, key_file, scope)}"
    print_json(get_json(f"{url}/v1/receipts/{event}", {"authorization": bearer}, {}))


@app.command("accuse")
def accuse_log(
    notes: Annotated[
        list[Path],
        typer.Argument(help="Two or more receipts, `.tlog-proof` files, checkpoints."),
    ],
    key: Annotated[str, typer.Option(help="The log's vkey.")],
    receipt_key: Annotated[str, typer.Option(help="The vkey of its receipts.")],
    *,
    leaf: Annotated[
        list[Path] | None,
        typer.Option(help="The leaf of a proof; one for each, in their order."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether what a log has signed contradicts itself: status 1 if it does."""
    from audit.accusation import contradiction, read_statements
    from audit.note import parse_vkey

    leaves = iter([file.read_bytes() for file in leaf or ()])
    statements = tuple(
        statement
        for file in notes
        for statement in read_statements(
            file.read_bytes(), parse_vkey(key), parse_vkey(receipt_key), leaves
        )
    )
    found = contradiction(statements)
    if as_json:
        print_json({"contradiction": found})
    else:
        told = f"the log has signed {found}" if found else "no contradiction"
        sys.stdout.write(told + "\n")
    if found is not None:
        raise typer.Exit(int(Exit.WRONG.value))
