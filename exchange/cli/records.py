"""Commands that read the records of an access log: one, some, or all of them."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer

from exchange.cli.console import (
    A_PLACE,
    AboutSubject,
    AsJson,
    ClientName,
    KeyFile,
    OfCase,
    OfKind,
    OfMatter,
    OfOutcome,
    OfProvider,
    OfRequester,
    Since,
    Until,
    Url,
    check_span,
    get_json,
    get_token,
    given,
    in_utc,
    make_table,
    print_json,
    print_table,
    read_subject_id,
)
from exchange.cli.logs import (
    ShardName,
    SubjectsPlace,
    elsewhere_of,
    read_keys,
    stored_shard,
)
from exchange.files import check_writable
from schemas.errors import ErrandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from audit.beside import Elsewhere
    from audit.sql import Place

app = typer.Typer()
"""Part of the group `audit`."""

_MOST = 1_000
"""Most rows of an answer, as the API has it."""
_MOST_PAGES = 100
"""Most pages that are asked for at once: of what is beyond, `next` says how."""


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
        str | None,
        typer.Option(help="The log's own file, folder or database."),
        A_PLACE,
    ] = None,
    shard: ShardName = None,
    leaf: Annotated[
        Path | None,
        typer.Option(
            "--leaf",
            help="Write the leaf's exact bytes here: for `accuse`, and proofs.",
        ),
    ] = None,
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
    if leaf is not None:
        check_writable(leaf, "--leaf")
    if log is not None:
        place = elsewhere_of(subjects)
        stored = stored_shard(log, shard)
        exact, sections = _record_in(stored, event, keys_folder, audience, place)
    elif client is None or key_file is None:
        raise ErrandError("say `--client` and `--key-file`, or `--log`")
    else:
        bearer = f"Bearer {get_token(url, client, key_file, 'auditor')}"
        path = f"{url}/v1/audit/records/{event}"
        exact, sections = _checked(get_json(path, {"authorization": bearer}, {}))
    if leaf is not None:
        leaf.write_bytes(exact)
    print_json({"leaf": orjson.loads(exact), **sections})


def _record_in(
    stored: "Place",
    event: str,
    keys_folder: Path | None,
    audience: str,
    elsewhere: "Elsewhere",
) -> "tuple[bytes, Mapping[str, object]]":
    """Return a stored log's leaf, and its sections where keys are given."""
    from audit.beside import open_sealer
    from audit.fetching import open_still
    from audit.query import open_for
    from audit.record import Audience
    from schemas.errors import NotFoundError
    from schemas.ids import EventId

    keys = read_keys(keys_folder)
    with open_still(stored) as reader, open_sealer(stored, keys, elsewhere) as sealer:
        entry = reader.entry_of(EventId(event))
        if entry is None:
            raise NotFoundError("the log has no record of this event")
        opened = (
            {}
            if sealer is None
            else open_for(Audience(audience), reader, sealer, EventId(event))
        )
    sections = {name.value: one.value for name, one in opened.items()}
    return entry.leaf, {"index": entry.seq, "sections": sections}


def _checked(told: "Mapping[str, Any]") -> "tuple[bytes, Mapping[str, object]]":
    """Return the leaf that the API tells, and its sections once they are verified.

    Raises:
        VerificationError: A section is not the one that the leaf commits to.
    """
    from audit.record import read_leaf
    from audit.sections import verify_section
    from schemas.canonical import b64url_decode

    exact = told["leaf"].encode()
    leaf = read_leaf(exact)
    sections = {}
    for name, one in told["sections"].items():
        section = one["section"].encode()
        opening = b64url_decode(one["opening"])
        verify_section(leaf.commitments.get(name, b""), opening, section)
        sections[name] = orjson.loads(section)
    return exact, {"sections": sections}


@app.command("query")
def query_audit(  # noqa: PLR0913 - the conditions of one question
    client: ClientName,
    key_file: KeyFile,
    *,
    url: Url = "http://127.0.0.1:8800",
    subject: AboutSubject = False,
    requester: OfRequester = None,
    provider: OfProvider = None,
    matter: OfMatter = None,
    case: OfCase = None,
    outcome: OfOutcome = None,
    kind: OfKind = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, help="Rows of an answer; 50, if not said."),
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="Go on after the answer that said this `next`.")
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--all", help="Ask for all pages, and make one answer of them."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a running gateway who asked what; the question becomes a record.

    With `--all` each page is a question of its own.
    """
    if whole and (after, limit) != (None, None):
        raise ErrandError("`--all` takes no `--after` or `--limit`")
    check_span(since, until)
    conditions = given(
        requester=requester,
        provider=provider,
        matter=matter,
        case=case,
        outcome=outcome,
        kind=kind,
        since=since,
        until=until,
        limit=str(limit or (_MOST if whole else 50)),
    )
    headers = {"authorization": f"Bearer {get_token(url, client, key_file, 'auditor')}"}
    if subject:
        headers["errand-subject"] = f"citizen_id:{read_subject_id()}"

    def ask(after: str | None) -> Any:  # noqa: ANN401 - JSON of the API
        asked = {**conditions, **given(after=after)}
        return get_json(f"{url}/v1/audit/records", headers, asked)

    page = _all_pages(ask) if whole else ask(after)
    if as_json:
        print_json(page)
    else:
        _show_page(page)


def _all_pages(ask: "Callable[[str | None], Any]") -> "Mapping[str, Any]":
    """Return one answer made of all pages, newest first.

    A question about somebody is a record about them, and those that follow the first
    one are not in its answer. So in the end it is asked once more for what is newer
    than the first answer: that has all of them, its own question included.

    Args:
        ask: Returns the page after a cursor; of None, the first.

    Raises:
        ErrandError: More was recorded meanwhile than an answer holds.
    """
    page = ask(None)
    rows, asked = list(page["records"]), 1
    while page["next"] is not None and asked < _MOST_PAGES:
        page, asked = ask(page["next"]), asked + 1
        rows += page["records"]
    if asked == 1:
        return {**page, "records": rows}
    known = {row["event"] for row in rows}
    last = ask(None)
    newer = [row for row in last["records"] if row["event"] not in known]
    if len(newer) == len(last["records"]) and last["next"] is not None:
        raise ErrandError("more is recorded meanwhile than is read: say `--until`")
    return {**last, "records": newer + rows, "next": page["next"]}


def _show_page(page: "Mapping[str, Any]") -> None:
    """Print rows for people: what other commands take is never cut."""
    which, who = "at, kind, event", "outcome, requester, provider, type"
    table = make_table("Records", "index", which, who, kept=("index", which))
    for row in page["records"]:
        asked = " → ".join(filter(None, (row["requester"], row["provider"])))
        told = filter(None, (row["outcome"], asked, row["evidence_type"]))
        table.add_row(
            str(row["index"]),
            f"{in_utc(row['at_ms'] // 1000)} {row['kind']}\n{row['event']}",
            "\n".join(told),
        )
    print_table(table)
    for name in page.get("unmatched", ()):
        sys.stdout.write(f"no record at all meets --{name}: is it mistyped?\n")
    if page["next"] is not None:
        sys.stdout.write(f"there are more: --after {page['next']}, or --all\n")


@app.command("receipt")
def audit_receipt(
    event: Annotated[str, typer.Argument(help="The record's event id.")],
    client: ClientName,
    key_file: KeyFile,
    url: Url = "http://127.0.0.1:8800",
    scope: Annotated[
        str, typer.Option(help="The token's, such as `portal:newborn_registration`.")
    ] = "auditor",
) -> None:
    """Get the receipt of a record and its proof, as JSON."""
    bearer = f"Bearer {get_token(url, client, key_file, scope)}"
    print_json(get_json(f"{url}/v1/receipts/{event}", {"authorization": bearer}, {}))
