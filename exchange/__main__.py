"""The command line: `errand`, for operators, departments, auditors and developers.

Every command prints a table for people, or JSON with `--json`. No command takes a
person's id as an argument, which a shell would keep: it is read from standard input.
Modules are imported inside the commands, so that `errand --help` answers at once.
"""

# ruff: noqa: PLC0415 - see above: a command imports what it runs

import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from schemas.errors import ErrandError, VerificationError

if TYPE_CHECKING:
    from rich.table import Table

    from connectors.conformance import Result
    from connectors.jose import SigningKey
    from exchange.settings import Settings

_Typer = typer.Typer
# A traceback with the values of variables could show a person's.
app = _Typer(
    name="errand",
    help="An exchange between government departments: the data runs the errand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
department = _Typer(help="The service that a department runs.", no_args_is_help=True)
audit = _Typer(help="Look into an access log.", no_args_is_help=True)
pack = _Typer(help="Check matters and directories.", no_args_is_help=True)
keys = _Typer(help="The gateway's own keys.", no_args_is_help=True)
witness = _Typer(help="Keep watch over the logs of others.", no_args_is_help=True)
for _name, _group in (
    ("department", department),
    ("audit", audit),
    ("pack", pack),
    ("keys", keys),
    ("witness", witness),
):
    app.add_typer(_group, name=_name)

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings (YAML); else `ERRAND_CONFIG` names them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Url = Annotated[str, typer.Option(help="Where the gateway's API is.")]
ClientName = Annotated[str, typer.Option("--client", help="The client's id.")]
KeyFile = Annotated[Path, typer.Option(help="The client's private key (PEM).")]


class _Exit(StrEnum):
    """What the exit status tells a program."""

    WRONG = "1"
    """What was checked does not hold."""
    UNUSABLE = "2"
    """The command could not be carried out."""


def main() -> None:
    """Run the command line; an error of ours is one line and an exit status."""
    try:
        app()
    except VerificationError as error:
        _fail(error, _Exit.WRONG)
    except ErrandError as error:
        _fail(error, _Exit.UNUSABLE)


def _fail(error: ErrandError, status: _Exit) -> None:
    sys.stderr.write(f"errand: {error}\n")
    sys.exit(int(status.value))


@app.command()
def serve(config: Config = None) -> None:
    """Run the gateway until it is told to stop."""
    from exchange.app import serve as serve_gateway

    serve_gateway(_settings(config))


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
def demo(context: typer.Context) -> None:
    """Run a newborn's case through seven departments, and check all of it."""
    from exchange.demo.command import demo as command

    inner = _Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(command)
    typer.main.get_command(inner).main(context.args, prog_name="errand demo")


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
    sys.stdout.write(_token(url, client, key_file, scope) + "\n")


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

    found = read_pack(_settings(config).packs)
    explained = explain_offline(
        found, matter, answers=answer or (), stated=stated, requester=requester
    )
    if as_json:
        _print_json(explained.model_dump(mode="json"))
        return
    for table in show_explanation(explained):
        _print(table)


# Departments.


@department.command("serve")
def serve_department(
    config: Annotated[Path, typer.Option(help="The department's configuration.")],
) -> None:
    """Run the service beside a register until it is told to stop."""
    from connectors.department.app import serve as serve_service

    serve_service(config)


@department.command("keygen")
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
        _print_json(pinned.model_dump(mode="json", exclude_none=True))
        return
    import yaml

    sys.stdout.write(
        yaml.safe_dump([pinned.model_dump(mode="json", exclude_none=True)])
    )


@department.command("try")
def try_department(
    target: Annotated[
        Path, typer.Argument(help="What to try, as docs/provider-protocol.md says.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Check that a department speaks the protocol: status 1 where it does not."""
    import asyncio

    from connectors.conformance import Kit, load_target, run
    from schemas.clock import SystemClock
    from schemas.ids import new_ids

    clock = SystemClock()
    kit = Kit(load_target(target), clock, new_ids(clock), os.urandom)

    async def tried() -> "tuple[Result, ...]":
        try:
            return await run(kit)
        finally:
            await kit.aclose()

    results = asyncio.run(tried())
    if as_json:
        _print_json([asdict(result) for result in results])
    else:
        table = _table("The provider protocol", "check", "", "reason")
        for one in results:
            table.add_row(one.check, "✓" if one.passed else "✗", one.reason)
        _print(table)
    if not all(result.passed for result in results):
        raise typer.Exit(int(_Exit.WRONG.value))


# The log.


@audit.command("verify")
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
        _print_json({"verified": True, **verified.as_json()})
        return
    table = _table("The log holds", "what", "found")
    for name, value in verified.as_json().items():
        if isinstance(value, dict):
            for kind, count in value.items():
                table.add_row(f"  {kind}", str(count))
        else:
            table.add_row(name.replace("_", " "), str(value))
    _print(table)


@audit.command("fsck")
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
        _print_json({"verified": True, **checked.as_json()})
        return
    table = _table("The log holds", "what", "found")
    for name, value in checked.as_json().items():
        table.add_row(name, ", ".join(value) if isinstance(value, dict) else str(value))
    _print(table)


@audit.command("export")
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


@audit.command("query")
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
    headers = {"authorization": f"Bearer {_token(url, client, key_file, 'auditor')}"}
    if subject:
        # Not an argument: shells and process lists would keep it.
        headers["errand-subject"] = f"citizen_id:{sys.stdin.readline().strip()}"
    params = {name: value for name, value in conditions.items() if value is not None}
    page = _get(f"{url}/v1/audit/records", headers, params)
    if as_json:
        _print_json(page)
        return
    table = _table(
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
    _print(table)


@audit.command("receipt")
def audit_receipt(
    event: Annotated[str, typer.Argument(help="The record's event id.")],
    client: ClientName,
    key_file: KeyFile,
    url: Url = "http://127.0.0.1:8800",
    scope: str = "auditor",
) -> None:
    """Get the receipt of a record and its proof, as JSON."""
    bearer = f"Bearer {_token(url, client, key_file, scope)}"
    _print_json(_get(f"{url}/v1/receipts/{event}", {"authorization": bearer}, {}))


@audit.command("accuse")
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
        _print_json({"contradiction": found})
    else:
        told = f"the log has signed {found}" if found else "no contradiction"
        sys.stdout.write(told + "\n")
    if found is not None:
        raise typer.Exit(int(_Exit.WRONG.value))


# Packs.


@pack.command("check")
def check_pack(
    folders: Annotated[list[Path], typer.Argument(help="Pack folders, in order.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Check packs whole: every place that is wrong, or what they declare."""
    from exchange.catalogue import compile_pack
    from exchange.office import read_pack
    from schemas.errors import PackError

    try:
        found = read_pack(tuple(folders))
        compile_pack(found, found.services.values())
    except PackError as error:
        if as_json:
            _print_json({"valid": False, "places": list(error.places)})
        else:
            sys.stderr.write("".join(f"{place}\n" for place in error.places))
        raise typer.Exit(int(_Exit.WRONG.value)) from None
    declared = {
        "matters": sorted(found.matters),
        "evidence_types": sorted(found.evidence_types),
        "providers": sorted(found.providers),
        "services": sorted(found.services),
        "grants": sorted(found.grants),
        "requesters": sorted(found.requesters),
    }
    if as_json:
        _print_json({"valid": True, "digest": found.digest, **declared})
        return
    table = _table(f"Valid, digest {found.digest}", "declares", "count", "ids")
    for name, ids in declared.items():
        table.add_row(name.replace("_", " "), str(len(ids)), ", ".join(ids))
    _print(table)


# Witnesses.


@witness.command("keygen")
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


@witness.command("serve")
def serve_witness(
    key: Annotated[Path, typer.Option(help="The witness's private key.")],
    logs: Annotated[
        Path, typer.Option(help="A tlog-policy whose `log` lines say what to watch.")
    ],
    data: Annotated[Path, typer.Option(help="What was cosigned (SQLite).")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8801,
) -> None:
    """Cosign the heads of logs that only grow, until told to stop."""
    from audit.witness_app import open_witness
    from audit.witness_app import serve_witness as serve

    serve(open_witness(key, logs, data), host, port)


# Keys.


@keys.command("make")
def make_keys(config: Config = None) -> None:
    """Make the gateway's keys that are missing, and show the public parts."""
    _show_keys(_settings(config), make=True, as_json=False)


@keys.command("show")
def show_keys(config: Config = None, *, as_json: AsJson = False) -> None:
    """Show the public parts of the gateway's keys, for others to pin."""
    _show_keys(_settings(config), make=False, as_json=as_json)


def _show_keys(settings: "Settings", *, make: bool, as_json: bool) -> None:
    from exchange.keys import open_keys

    opened = open_keys(
        settings.keys_dir, settings.log_origin, entropy=os.urandom if make else None
    )
    shown = {
        "lookup": opened.lookup.public_jwk(),
        "token": opened.token.public_jwk(),
        "log": opened.log.log.verifier.vkey,
        "receipt": opened.log.receipt.verifier.vkey,
    }
    if as_json:
        _print_json(shown)
        return
    for name, key in shown.items():
        text = key if isinstance(key, str) else orjson.dumps(key).decode()
        sys.stdout.write(f"{name:8} {text}\n")


# Below: what commands share.


def _settings(config: Path | None) -> "Settings":
    from exchange.settings import read_settings

    return read_settings(config, os.environ)


def _token(url: str, client: str, key_file: Path, scope: str) -> str:
    """Return a fresh access token."""
    import httpx

    from exchange.assertions import client_assertion
    from exchange.identity import ASSERTION_TYPE, TOKEN_PATH
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


def _get(url: str, headers: dict[str, str], params: dict[str, str]) -> Any:  # noqa: ANN401 - JSON of the API
    """Return what the gateway answers, as JSON.

    Raises:
        ErrandError: It can't be reached, or answers with a problem.
    """
    import httpx

    try:
        answer = httpx.get(url, headers=headers, params=params)
    except httpx.TransportError as error:
        raise ErrandError(f"the gateway at {url} can't be reached") from error
    told = answer.json()
    if answer.is_error:
        raise ErrandError(f"{told.get('title')}: {told.get('detail', told['type'])}")
    return told


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    Console().print(table, markup=False)


def _print_json(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


if __name__ == "__main__":
    main()
