"""Commands that seal a log's shard and open the next one."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli.console import (
    A_PLACE,
    AsJson,
    Config,
    make_table,
    print_json,
    print_table,
    settings_of,
)
from exchange.cli.logs import read_head, read_shards, read_vkey

if TYPE_CHECKING:
    from audit.shards import Shard

Name = Annotated[
    str | None,
    typer.Option(help="The next shard's name; by itself the half-year, as `2026h2`."),
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `errand audit`."""
    app.command("seal-shard")(seal)
    app.command("recover")(recover)
    app.command("shards")(list_shards)


def seal(
    *,
    name: Name = None,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Only make the next key and print its vkey."),
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Seal the log's current shard and open the next.

    Where the log is in files the gateway is stopped first; on PostgreSQL gateways go
    on with the next one by themselves. With witnesses, prepare first: they have to
    know the next shard's key.
    """
    from exchange.rollover import prepare_shard, seal_shard
    from schemas.clock import SystemClock
    from schemas.ids import new_ids

    settings, clock = settings_of(config), SystemClock()
    if prepare:
        sys.stdout.write(prepare_shard(settings, clock, name) + "\n")
        return
    sealing = seal_shard(settings, clock, new_ids(clock), name)
    _show(asyncio.run(sealing), as_json=as_json)


def recover(
    head: Annotated[
        Path, typer.Argument(help="The head that a witness holds: a signed checkpoint.")
    ],
    *,
    name: Name = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Leave a log that has lost what a witness saw, and open a recovery shard.

    Its first record cites both heads. A gateway on files is stopped first. It says
    how many records of the log that was left no published head covers.
    """
    from exchange.rollover import recover_shard
    from schemas.clock import SystemClock
    from schemas.ids import new_ids

    settings, clock, seen = settings_of(config), SystemClock(), read_head(head)
    recovering = recover_shard(settings, clock, new_ids(clock), seen, name)
    done = asyncio.run(recovering)
    _show(done.shards, {done.left.origin: done.unpublished}, as_json=as_json)


def list_shards(
    source: Annotated[
        str,
        typer.Argument(help="A gateway's log (URL), or a saved `/log/shards`."),
        A_PLACE,
    ],
    vkey: Annotated[
        str,
        typer.Option(help="The vkey of any one of the shards.", callback=read_vkey),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """List the shards of a log, after checking who signed the list."""
    from audit.fetching import SHARDS_FOLDER, fetching_from_url, is_address
    from audit.note import parse_vkey
    from audit.shards import read_list
    from schemas.errors import UnverifiableError

    if is_address(source):
        with fetching_from_url(source) as fetch:
            found = fetch(SHARDS_FOLDER)
        if found is None:
            raise UnverifiableError(f"{source}: no list of shards is served there")
        note = found
    else:
        note = read_shards(Path(source))
    _show(read_list(note, parse_vkey(vkey)), as_json=as_json)


def _show(
    shards: "Sequence[Shard]",
    unpublished: Mapping[str, int] | None = None,
    *,
    as_json: bool,
) -> None:
    """Print shards; and of those that were left, how much of them is unpublished."""
    unpublished = unpublished or {}
    if as_json:
        print_json([_row(shard, unpublished.get(shard.origin)) for shard in shards])
        return
    counts = ("records", "unpublished") if unpublished else ("records",)
    columns = ("origin", "state", *counts, "root")
    table = make_table("Shards", *columns, kept=("origin", "unpublished"))
    for shard in shards:
        state = "sealed" if shard.is_sealed else "written to"
        counted = (shard.size or "", unpublished.get(shard.origin, ""))[: len(counts)]
        table.add_row(shard.origin, state, *map(str, counted), shard.root or "")
    print_table(table)


def _row(shard: "Shard", unpublished: int | None) -> Mapping[str, object]:
    row: dict[str, object] = {
        "origin": shard.origin,
        "vkey": shard.vkey,
        "sealed": shard.is_sealed,
        "size": shard.size,
        "root": shard.root,
    }
    return row if unpublished is None else {**row, "unpublished": unpublished}
