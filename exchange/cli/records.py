"""Commands that read the records of an access log: one, some, or all of them."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from exchange.cli.console import (
    AboutSubject,
    AsJson,
    ClientName,
    KeyFile,
    Url,
    get_json,
    get_token,
    given,
    make_table,
    print_json,
    print_table,
    read_subject_id,
)
from exchange.cli.logs import (
    ShardName,
    SubjectsPlace,
    elsewhere_of,
    stored_shard,
)
from schemas.errors import ErrandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from audit.beside import Elsewhere
    from audit.sql import Place

app = typer.Typer()
"""Part of the group `audit`."""


@app.command("show")
def show_record(  # noqa: PLR0913 - over the API, or with the log's own keys
    event: Annotated[str, typer.Argument(help="The record's event id.")],
    *,
    client: Annotated[str | None, typer.Option(help="The auditor's client id.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="The client's private key (PEM).")
    ] = None,
    url: Url = "http://127.0.0.1:8800",
    log: Annotated[
        str | None, typer.Option(help="The log's own file, folder or database.")
    ] = None,
    shard: ShardName = None,
    keys_folder: Annotated[
        Path | None, typer.Option("--keys", help="The log's own keys.")
    ] = None,
    subjects: SubjectsPlace = None,
    audience: Annotated[
        Literal["auditor", "requester", "provider", "citizen"],
        typer.Option(help="Whose sections are opened with `--keys`."),
    ] = "auditor",
) -> None:
    """Show one record, with the sections that the caller may open, as JSON.

    Over the API the look becomes a record itself; with `--log`, nobody is asked.
    Each section is compared with its commitment before it is shown.
    """
    if log is not None:
        place = elsewhere_of(subjects)
        stored = stored_shard(log, shard)
        print_json(_record_in(stored, event, keys_folder, audience, place))
        return
    if client is None or key_file is None:
        raise ErrandError("say `--client` and `--key-file`, or `--log`")
    bearer = f"Bearer {get_token(url, client, key_file, 'auditor')}"
    told = get_json(f"{url}/v1/audit/records/{event}", {"authorization": bearer}, {})
    print_json(_checked_record(told))


def _record_in(
    stored: "Place",
    event: str,
    keys_folder: Path | None,
    audience: str,
    elsewhere: "Elsewhere",
) -> "Mapping[str, object]":
    """Return a record of a stored log, with its sections where keys are given."""
    import orjson

    from audit.beside import open_sealer
    from audit.fetching import open_still
    from audit.keys import load_keys
    from audit.query import open_for
    from audit.record import Audience
    from schemas.errors import NotFoundError
    from schemas.ids import EventId

    keys = None if keys_folder is None else load_keys(keys_folder)
    with open_still(stored) as reader, open_sealer(stored, keys, elsewhere) as sealer:
        entry = reader.entry_of(EventId(event))
        if entry is None:
            raise NotFoundError("the log has no record of this event")
        opened = (
            {}
            if sealer is None
            else open_for(Audience(audience), reader, sealer, EventId(event))
        )
    return {
        "index": entry.seq,
        "leaf": orjson.loads(entry.leaf),
        "sections": {name.value: one.value for name, one in opened.items()},
    }


def _checked_record(told: "Mapping[str, Any]") -> "Mapping[str, object]":
    """Return what the API tells of a record, once its sections are verified.

    Raises:
        VerificationError: A section is not the one that the leaf commits to.
    """
    import orjson

    from audit.record import read_leaf
    from audit.sections import verify_section
    from schemas.canonical import b64url_decode

    leaf = read_leaf(told["leaf"].encode())
    sections = {}
    for name, one in told["sections"].items():
        section = one["section"].encode()
        opening = b64url_decode(one["opening"])
        verify_section(leaf.commitments.get(name, b""), opening, section)
        sections[name] = orjson.loads(section)
    return {"leaf": orjson.loads(told["leaf"]), "sections": sections}


@app.command("query")
def query_audit(  # noqa: PLR0913 - the conditions of one question
    client: ClientName,
    key_file: KeyFile,
    *,
    url: Url = "http://127.0.0.1:8800",
    subject: AboutSubject = False,
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
    conditions = given(
        requester=requester,
        provider=provider,
        matter=matter,
        case=case,
        outcome=outcome,
        kind=kind,
        since=since,
        until=until,
        limit=str(limit),
    )
    headers = {"authorization": f"Bearer {get_token(url, client, key_file, 'auditor')}"}
    if subject:
        headers["errand-subject"] = f"citizen_id:{read_subject_id()}"
    page = get_json(f"{url}/v1/audit/records", headers, conditions)
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
