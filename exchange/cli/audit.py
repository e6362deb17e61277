"""Commands that look into an access log."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from exchange.cli import erasure, shards
from exchange.cli.console import (
    AsJson,
    Exit,
    in_utc,
    make_table,
    print_json,
    print_table,
)
from exchange.cli.logs import (
    AnchorsPlace,
    ErasuresPlace,
    LogKey,
    LogKeysFolder,
    PolicyFile,
    ReceiptKey,
    ShardName,
    StampCertificates,
    StateFile,
    SubjectsPlace,
    TokenFile,
    Where,
    asking_for_a_token,
    check_keys,
    elsewhere_of,
    opened,
    read_keys,
    read_policy,
    read_receipt,
    read_token,
    read_vkey,
)
from exchange.files import check_writable, read_file
from schemas.errors import ErrandError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from audit.accusation import Statement
    from audit.beside import Elsewhere
    from audit.completeness import Compared
    from audit.demands import Demands
    from audit.note import Verifier
    from schemas.canonical import Json

app = typer.Typer(help="Look into an access log.", no_args_is_help=True)
erasure.add_commands(app)
shards.add_commands(app)


@app.command("verify")
def verify_audit(  # noqa: PLR0913 - what one verification may demand
    log: Where,
    vkey: LogKey,
    *,
    policy: PolicyFile = None,
    anchors: StampCertificates = None,
    anchors_in: AnchorsPlace = None,
    receipt: Annotated[
        list[Path] | None, typer.Option(help="A receipt that must be kept.")
    ] = None,
    receipt_key: ReceiptKey = None,
    form: Annotated[
        Literal["auto", "records", "any"],
        typer.Option(help="What entries are; `auto` is as the first one is."),
    ] = "auto",
    state: StateFile = None,
    keys_folder: LogKeysFolder = None,
    subjects: SubjectsPlace = None,
    erasures: ErasuresPlace = None,
    shard: ShardName = None,
    following: Annotated[
        bool,
        typer.Option("--shards", help="And all later shards, and how they are linked."),
    ] = False,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify a log: every entry, tile and root, signatures, cosignatures, receipts.

    Of the log's own file also what stands beside each leaf. Status 1 where it fails,
    2 where nothing could be verified.
    """
    from audit.anchor import parse_trust
    from audit.demands import Demands, Form

    if receipt and receipt_key is None:
        raise ErrandError("`--receipt` takes `--receipt-key`, which it is signed with")
    check_keys(vkey, receipt_key)
    demands = Demands(
        vkey=vkey,
        form=Form(form),
        policy=read_policy(policy),
        receipts=[read_receipt(file) for file in receipt or ()],
        receipt_vkey=receipt_key,
        anchors=None if anchors is None else parse_trust(read_file(anchors)),
    )
    if state is not None:
        check_writable(state, "--state", is_replaced=True)
    place = _Place(log, shard, read_token(token_file))
    elsewhere = elsewhere_of(subjects, erasures, anchors_in)
    if not following:
        found = _verify(place, demands, state, keys_folder, elsewhere)
        _show_found(found, as_json=as_json)
        return
    if {shard, state, keys_folder} != {None} or demands.receipts:
        raise ErrandError("with `--shards`: no shard, state, keys, or receipts")
    with asking_for_a_token(place.token):
        found_all = _verify_series(place, demands, elsewhere)
    _show_series(found_all, as_json=as_json)


class _Place(NamedTuple):
    """A log, or one of its shards, as a command names it."""

    log: str
    shard: str | None
    token: str | None


def _verify(
    place: _Place,
    demands: "Demands",
    state: Path | None,
    keys_folder: Path | None,
    elsewhere: "Elsewhere",
) -> "Mapping[str, Json]":
    """Verify a log where it is kept or as it is served, whichever is named."""
    from audit.beside import with_anchors
    from audit.fetching import is_address, stored_log
    from audit.verify import verify_stored
    from audit.verify_served import verify_served

    stored = stored_log(place.log, place.shard)
    if keys_folder is not None and stored is None:
        raise ErrandError("sections stand in the log's own file: give that")
    with ExitStack() as stack:
        if stored is not None:
            keys = read_keys(keys_folder)
            progress = stack.enter_context(_progress())
            return verify_stored(
                stored,
                demands,
                keys=keys,
                progress=progress,
                state_file=state,
                elsewhere=elsewhere,
            ).as_json()
        fetch = stack.enter_context(opened(place.log, place.token, place.shard))
        if elsewhere.anchors is not None:
            fetch = with_anchors(fetch, elsewhere.anchors)
        return verify_served(
            fetch,
            demands,
            stack.enter_context(_progress()),
            state_file=state,
            at_once=is_address(place.log),
        ).as_json()


def _verify_series(
    place: _Place, demands: "Demands", elsewhere: "Elsewhere"
) -> "list[Mapping[str, Json]]":
    """Verify a shard and all after it, and that each names the next and is cited.

    Of one that goes on from a log which has lost records, it is told what was lost.
    """
    from dataclasses import replace

    from audit.note import parse_vkey
    from audit.series import Ends, ends_of, shard_at

    found: list[Mapping[str, Json]] = []
    before: Ends | None = None
    vkey: str | None = demands.vkey
    while vkey is not None:
        verifier = parse_vkey(vkey)
        shard = shard_at(place.log, verifier.name, place.token)
        here, wanted = place._replace(shard=shard), replace(demands, vkey=vkey)
        found.append(_verify(here, wanted, None, None, elsewhere))
        ends, vkey = ends_of(place.log, shard, verifier, place.token)
        if before is not None:
            recovered = before.check_next(ends)
            if recovered is not None:
                found[-1] = {**found[-1], "recovered": recovered.as_json()}
        before = ends
    return found


@app.command("complete")
def check_completeness(  # noqa: PLR0913 - what the comparison takes
    log: Where,
    vkey: LogKey,
    subject_key: Annotated[
        Path, typer.Option(help="The person's key, as `subject-key` wrote it.")
    ],
    pages: Annotated[
        list[Path],
        typer.Option("--list", help="The gateway's answer (JSON); one for each page."),
    ],
    *,
    policy: PolicyFile = None,
    shard: ShardName = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a list of accesses to a person is complete: status 1 if it is not.

    Every leaf of the log, or of anybody's copy of it, is verified and tested.
    """
    from audit.completeness import check_complete, read_list
    from audit.demands import Demands
    from audit.fetching import is_address
    from audit.keys import read_subject_key

    wanted = read_policy(policy)
    try:
        listed = read_list([read_file(page) for page in pages])
    except VerificationError as error:
        raise ErrandError(f"{error}: nothing to compare") from None
    key = read_subject_key(subject_key)
    with (
        opened(log, read_token(token_file), shard) as fetch,
        _progress() as progress,
    ):
        found = check_complete(
            fetch,
            Demands(vkey, policy=wanted),
            key,
            listed,
            progress,
            at_once=is_address(log),
        )
    _show_compared(found, as_json=as_json)
    if not found.is_complete:
        raise typer.Exit(Exit.WRONG)


def _show_compared(found: "Compared", *, as_json: bool) -> None:
    """Print what a list is worth."""
    if as_json:
        print_json(found.as_json())
        return
    told = "complete" if found.is_complete else "not complete"
    table = make_table(f"The list is {told}", "what", "found")
    for name, value in found.as_json().items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name, shown)
    print_table(table)


@app.command("fsck")
def fsck_log(
    log: Where,
    vkey: LogKey,
    *,
    shard: ShardName = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Compute every tile and the root anew from the entries, and compare them."""
    from audit.fsck import check_log

    with (
        opened(log, read_token(token_file), shard) as fetch,
        _progress() as progress,
    ):
        found = check_log(fetch, vkey, progress).as_json()
    _show_found(found, as_json=as_json)


def _show_series(shards: "Sequence[Mapping[str, Json]]", *, as_json: bool) -> None:
    """Show what was found to hold of each shard."""
    if as_json:
        print_json({"verified": True, "shards": shards})
        return
    for one in shards:
        _show_found(one, as_json=False)


@contextmanager
def _progress() -> "Iterator[Callable[[int, int], None]]":
    """Show a progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("entries", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _show_found(found: "Mapping[str, Json]", *, as_json: bool) -> None:
    """Show what was found to hold."""
    if as_json:
        print_json({"verified": True, **found})
        return
    shown = make_table("The log holds", "what", "found")
    for name, value in found.items():
        parts = value if isinstance(value, dict) else {}
        told = "" if isinstance(value, dict) else str("no" if value is None else value)
        shown.add_row(name.replace("_", " "), told)
        for part, one in parts.items():
            is_instant = name == "cosigned" and isinstance(one, int)
            shown.add_row(f"  {part}", in_utc(one) if is_instant else str(one))
    print_table(shown)


@app.command("prove")
def prove_log(  # noqa: PLR0913 - either of two proofs, from anywhere
    log: Where,
    vkey: LogKey,
    *,
    index: Annotated[int | None, typer.Option(min=0, help="Which entry.")] = None,
    event: Annotated[
        str | None, typer.Option(help="Whose record, in the log's own file.")
    ] = None,
    sizes: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Two sizes: that the second tree continues the first."),
    ] = None,
    recovered: Annotated[
        bool,
        typer.Option(
            "--recovered",
            help="With which shard a log that has lost records goes on, as it signed.",
        ),
    ] = False,
    shard: ShardName = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Prove that an entry stands in a log (`.tlog-proof`), or that it only grew.

    From the pieces that are served, and verified before it is printed. Or who goes on
    from a log that has lost records: the note that `accuse` takes.
    """
    from audit.note import b64, parse_vkey
    from audit.proving import open_tree, prove_growth, prove_index
    from audit.series import handed_on

    if [index, event, sizes, recovered or None].count(None) != 3:  # noqa: PLR2004 - all but one
        raise ErrandError(
            "say one of `--index`, `--event`, `--sizes` and `--recovered`"
        )
    token, verifier = read_token(token_file), parse_vkey(vkey)
    if recovered:
        with asking_for_a_token(token):
            handed = handed_on(log, shard, verifier, token)
        _show_proof(handed.as_json(), handed.note, as_json=as_json)
        return
    with opened(log, token, shard) as fetch:
        tree = open_tree(fetch, verifier)
        if sizes is not None:
            growth = prove_growth(tree, *sizes)
            text = "".join(f"{b64(one)}\n" for one in growth.hashes)
            _show_proof(growth.as_json(), text, as_json=as_json)
            return
        at = _index_of(log, shard, event) if index is None else index
        proof = prove_index(tree, at)
        _show_proof(proof.as_json(), proof.as_text(), as_json=as_json)


def _show_proof(found: "Mapping[str, Json]", text: str, *, as_json: bool) -> None:
    """Print a proof as JSON, or as the text that others read."""
    if as_json:
        print_json(found)
    else:
        sys.stdout.write(text)


def _index_of(log: str, shard: str | None, event: str | None) -> int:
    """Return where the record of an event stands in a log's own file."""
    from audit.fetching import open_still, stored_log
    from schemas.errors import NotFoundError
    from schemas.ids import EventId

    stored = stored_log(log, shard)
    if stored is None:
        raise ErrandError("events stand in the log's own file: give that, or an index")
    with open_still(stored) as reader:
        entry = reader.entry_of(EventId(event or ""))
    if entry is None:
        raise NotFoundError("the log has no record of this event")
    return entry.seq


@app.command("accuse")
def accuse_log(
    notes: Annotated[
        list[Path],
        typer.Argument(help="Two or more receipts, `.tlog-proof` files, checkpoints."),
    ],
    key: LogKey,
    receipt_key: Annotated[
        str, typer.Option(help="The vkey of its receipts.", callback=read_vkey)
    ],
    *,
    leaf: Annotated[
        list[Path] | None,
        typer.Option(
            help="The leaf of a proof, as `show --leaf` wrote it; one for each, in "
            "their order."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether what a log has signed contradicts itself: status 1 if it does.

    What can't be judged, as it is one note alone, none, or not signed with these keys,
    is status 2.
    """
    from audit.accusation import contradiction
    from audit.note import parse_vkey

    log, receipts = parse_vkey(key), parse_vkey(receipt_key)
    leaves = iter([read_file(file) for file in leaf or ()])
    found = contradiction(
        tuple(
            statement
            for file in notes
            for statement in _statements(file, log, receipts, leaves)
        )
    )
    if next(leaves, None) is not None:
        raise ErrandError("there are more leaves than proofs: one for each, in order")
    if found is None and len({read_file(file) for file in notes}) == 1:
        # One proof alone can convict, by the head that it stands under.
        raise ErrandError(
            "one note contradicts nothing: give two or more, not the same"
        )
    if as_json:
        print_json({"contradiction": found})
    else:
        told = f"the log has signed {found}" if found else "no contradiction"
        sys.stdout.write(told + "\n")
    if found is not None:
        raise typer.Exit(Exit.WRONG)


def _statements(
    file: Path, log: "Verifier", receipts: "Verifier", leaves: "Iterator[bytes]"
) -> "tuple[Statement, ...]":
    """Return what a file states.

    Raises:
        ErrandError: It is nothing that this log has signed: it accuses nobody.
    """
    from audit.accusation import read_statements

    note = read_file(file)
    try:
        return read_statements(note, log, receipts, leaves)
    except VerificationError as error:
        raise ErrandError(
            f"`{file.name}` accuses nobody: {error}. It takes a signed receipt, a "
            "checkpoint, what `errand audit prove --recovered` printed, or a "
            "`.tlog-proof` with `--leaf`: the leaf's exact bytes, as `errand audit "
            "show EVENT --leaf FILE` writes them"
        ) from None
