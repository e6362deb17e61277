"""Commands that look into an access log."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

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

app = typer.Typer(help="Look into an access log.", no_args_is_help=True)


@app.command("verify")
def verify_audit(
    log: Annotated[Path, typer.Argument(help="A copied data folder, or a log's file.")],
    key: Annotated[str, typer.Option(help="The log's vkey, as `errand keys show`.")],
    *,
    receipt: Annotated[
        list[Path] | None, typer.Option(help="A receipt that must be kept.")
    ] = None,
    receipt_key: Annotated[
        str | None, typer.Option(help="The vkey that receipts are signed with.")
    ] = None,
    keys_folder: Annotated[
        Path | None,
        typer.Option("--keys", help="The log's own keys: opens every section."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a log offline: every record, the tree, every receipt."""
    from rich.console import Console
    from rich.progress import Progress

    from audit.keys import load_keys
    from audit.verify import verify_log

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("records", total=None)
        verified = verify_log(
            log,
            key,
            receipts=[file.read_bytes() for file in receipt or ()],
            receipt_vkey=receipt_key,
            keys=None if keys_folder is None else load_keys(keys_folder),
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    if as_json:
        print_json({"verified": True, **verified.as_json()})
        return
    table = make_table("The log holds", "what", "found")
    for name, value in verified.as_json().items():
        if isinstance(value, dict):
            for kind, count in value.items():
                table.add_row(f"  {kind}", str(count))
        else:
            table.add_row(name.replace("_", " "), str(value))
    print_table(table)


@app.command("fsck")
def fsck_log(
    log: Annotated[str, typer.Argument(help="A log's address, or a folder as served.")],
    key: Annotated[str, typer.Option(help="The log's vkey, whoever wrote it.")],
    *,
    policy: Annotated[
        Path | None, typer.Option(help="A tlog-policy: who must have cosigned.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="An access token, for a log with entries for members."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify what a log serves: every entry and tile, the root, the cosignatures."""
    import httpx
    from rich.console import Console
    from rich.progress import Progress

    from audit.fsck import check_log, fetch_from_folder, fetch_from_url
    from audit.policy import parse_policy

    headers = {}
    if token_file is not None:
        token = token_file.read_text(encoding="ascii").strip()
        headers["authorization"] = f"Bearer {token}"
    is_url = log.startswith(("http://", "https://"))
    with (
        httpx.Client(headers=headers) as client,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("entries", total=None)
        checked = check_log(
            fetch_from_url(client, log) if is_url else fetch_from_folder(Path(log)),
            key,
            lambda done, of: progress.update(task, completed=done, total=of),
            None if policy is None else parse_policy(policy.read_text("utf-8")),
        )
    if as_json:
        print_json({"verified": True, **checked.as_json()})
        return
    table = make_table("The log holds", "what", "found")
    for name, value in checked.as_json().items():
        table.add_row(name, ", ".join(value) if isinstance(value, dict) else str(value))
    print_table(table)


@app.command("export")
def export_log(
    log: Annotated[Path, typer.Argument(help="A data folder, or a log's file.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
) -> None:
    """Write the published log as static files: any web server can serve them."""
    from audit.served import export_pieces
    from audit.store import LogReader
    from audit.verify import LOG_FILE

    file = log / LOG_FILE if log.is_dir() else log
    if not file.is_file():
        raise ErrandError(f"there is no log at `{file.name}`")
    reader = LogReader.open(file)
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
