"""Commands that erase from an access log, hold against it, and give keys out.

They ask a running gateway. Whom they are about is read from standard input: an
argument would stay in the shell's history.
"""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from exchange.cli.console import (
    AsJson,
    ClientName,
    KeyFile,
    Url,
    get_json,
    get_token,
    make_table,
    post_json,
    print_json,
    print_table,
    read_subject_id,
)

Reason = Annotated[
    str, typer.Option(help="Where the reason is kept: a file number, nobody's name.")
]
Ref = Annotated[
    str | None, typer.Option(help="The person's reference; else the id from stdin.")
]
Shard = Annotated[
    str | None, typer.Option(help="A sealed shard's origin, instead of a person.")
]
Namespace = Annotated[str, typer.Option(help="What kind of id is read from stdin.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `errand audit`."""
    app.command("erase")(erase)
    app.command("hold")(hold)
    app.command("holds")(list_holds)
    app.command("release")(release)
    app.command("subject-key")(issue_key)


def erase(  # noqa: PLR0913 - what one erasure names
    client: ClientName,
    key_file: KeyFile,
    reason: Reason,
    *,
    ref: Ref = None,
    shard: Shard = None,
    namespace: Namespace = "citizen_id",
    url: Url = "http://127.0.0.1:8800",
    as_json: AsJson = False,
) -> None:
    """Make what the log keeps about a person unreadable for good; or a whole shard.

    It ends when no gateway has the key in memory any more.
    """
    body = {**_target(ref, shard, namespace), "reason": reason}
    headers = _bearer(url, client, key_file, "operator")
    path = f"{url}/v1/audit/erasures"
    found = post_json(path, headers, body)
    while found["waits_for"]:
        # On standard error, since it is not known yet to be done.
        sys.stderr.write(f"waiting for {', '.join(found['waits_for'])} to forget\n")
        found = get_json(f"{path}/{found['event']}", headers, {})
    _tell("erased everywhere", found, as_json)


def hold(  # noqa: PLR0913 - as above
    client: ClientName,
    key_file: KeyFile,
    reason: Reason,
    *,
    ref: Ref = None,
    shard: Shard = None,
    namespace: Namespace = "citizen_id",
    url: Url = "http://127.0.0.1:8800",
    as_json: AsJson = False,
) -> None:
    """Forbid the erasure of a person or a shard until the hold is released."""
    body = {**_target(ref, shard, namespace), "reason": reason}
    headers = _bearer(url, client, key_file, "auditor")
    _tell("held", post_json(f"{url}/v1/audit/holds", headers, body), as_json)


def release(
    event: Annotated[str, typer.Argument(help="The record that set the hold.")],
    client: ClientName,
    key_file: KeyFile,
    reason: Reason,
    *,
    url: Url = "http://127.0.0.1:8800",
    as_json: AsJson = False,
) -> None:
    """End a hold."""
    headers = _bearer(url, client, key_file, "auditor")
    path = f"{url}/v1/audit/holds/{event}/release"
    _tell("released", post_json(path, headers, {"reason": reason}), as_json)


def list_holds(
    client: ClientName,
    key_file: KeyFile,
    *,
    url: Url = "http://127.0.0.1:8800",
    as_json: AsJson = False,
) -> None:
    """List the holds that stand."""
    headers = _bearer(url, client, key_file, "auditor")
    found = get_json(f"{url}/v1/audit/holds", headers, {})
    if as_json:
        print_json(found)
        return
    ids = "hold and name"
    table = make_table("Holds", ids, "what", "reason", "by", kept=(ids,))
    for one in found["holds"]:
        named = f"{one['hold']}\n{one['name']}"
        table.add_row(named, one["what"], one["reason"], one["by"])
    print_table(table)


def issue_key(
    file: Annotated[Path, typer.Argument(help="Where the key goes; made anew.")],
    client: ClientName,
    key_file: KeyFile,
    reason: Reason,
    *,
    namespace: Namespace = "citizen_id",
    url: Url = "http://127.0.0.1:8800",
) -> None:
    """Write a person's key to a file that its owner alone reads; it is recorded."""
    from audit.keys import new_secret

    body = {**_target(None, None, namespace), "reason": reason}
    # The file first: a key that was given out is on record, and must not be lost.
    with new_secret(file) as write:
        headers = _bearer(url, client, key_file, "auditor")
        found = post_json(f"{url}/v1/audit/subject-keys", headers, body)
        write(found["key"])
    sys.stdout.write(f"record {found['event']} of {found['origin']}\n")


def _target(ref: str | None, shard: str | None, namespace: str) -> dict[str, object]:
    """Return whom or what it is about; an id is read from standard input."""
    if shard is not None:
        return {"shard": shard}
    if ref is not None:
        return {"ref": ref}
    return {"subject": {"namespace": namespace, "id": read_subject_id()}}


def _bearer(url: str, client: str, key_file: Path, scope: str) -> dict[str, str]:
    return {"authorization": f"Bearer {get_token(url, client, key_file, scope)}"}


def _tell(done: str, found: Any, as_json: bool) -> None:  # noqa: ANN401, FBT001 - JSON of the API, as the option says
    if as_json:
        print_json(found)
        return
    sys.stdout.write(
        f"{done}: {found['what']} {found['name']}, record {found['event']}\n"
    )
