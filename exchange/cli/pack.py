"""Commands for packs."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import sys
from pathlib import Path
from typing import Annotated

import typer

from exchange.cli.console import AsJson, Exit, make_table, print_json, print_table

app = typer.Typer(help="Check matters and directories.", no_args_is_help=True)


@app.command("check")
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
            print_json({"valid": False, "places": list(error.places)})
        else:
            sys.stderr.write("".join(f"{place}\n" for place in error.places))
        raise typer.Exit(Exit.WRONG) from None
    declared = {
        "matters": sorted(found.matters),
        "evidence_types": sorted(found.evidence_types),
        "providers": sorted(found.providers),
        "services": sorted(found.services),
        "grants": sorted(found.grants),
        "requesters": sorted(found.requesters),
    }
    if as_json:
        print_json({"valid": True, "digest": found.digest, **declared})
        return
    table = make_table(f"Valid, digest {found.digest}", "declares", "count", "ids")
    for name, ids in declared.items():
        table.add_row(name.replace("_", " "), str(len(ids)), ", ".join(ids))
    print_table(table)
