"""Verifying a log as outsiders see it: all that is signed, and what it is signed over.

`fsck` over the entries, and besides: the cosignatures that a policy demands, the form
of the leaves where the log is one of this exchange's, and the receipts that were
given. A log that somebody else wrote is verified as far as it goes: its entries are
any bytes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from audit.anchor import LIST, Anchored
from audit.demands import Demands, Form
from audit.fetching import Fetch, ahead, fetch_head
from audit.fsck import Progress, bundle_entries, bundles, grow, plan, served_entry
from audit.leaves import Leaves
from audit.merkle import leaf_hash
from audit.note import Checkpoint, b64, open_checkpoint, parse_vkey
from audit.proving import open_tree
from audit.record import read_leaf
from audit.resume import Keeper
from audit.tiles import Piece
from schemas.canonical import Json
from schemas.errors import VerificationError


@dataclass(frozen=True, slots=True)
class VerifiedServed:
    """What was found to hold."""

    origin: str
    published: int
    """Entries under the checkpoint: all that outsiders see."""
    root: str
    """Root of the checkpoint, in base64."""
    form: str
    """`records` of this exchange, or `any`: then nothing is said of their content."""
    by_kind: Mapping[str, int]
    tiles: int
    """Hash tiles that were compared in this run."""
    since: int
    """Entries that an earlier run had verified."""
    receipts: int
    """Receipts that were given and found to be kept."""
    cosigned: Mapping[str, int] = field(default_factory=dict)
    """Who has cosigned, and when, in seconds since 1970."""
    anchored: Anchored | None = None
    """What anchors show; None where none are demanded."""

    def as_json(self) -> Mapping[str, Json]:
        """Return the result as JSON."""
        return asdict(self)


def verify_served(
    fetch: Fetch,
    demands: Demands,
    progress: Progress,
    *,
    state_file: Path | None = None,
    at_once: bool = False,
) -> VerifiedServed:
    """Verify a served log.

    (1) The checkpoint: its signature, the quorum, and that it does not contradict the
        one that was seen before.
    (2) Every entry, every tile, the root; from where an earlier run ended.
    (3) Each receipt is kept, and each anchor holds.

    Args:
        fetch: Reads what is served.
        demands: What must hold.
        progress: Told how far it is.
        state_file: Keeps how far this log is verified, from run to run.
        at_once: Whether several pieces may be fetched at once.

    Raises:
        VerificationError: Something does not hold, or is missing; the message names it.
        UnverifiableError: It is another log, or shard, than the key's.
        SettingsError: The state file is another's.
    """
    # (1): who signs says what size and root must come out.
    verifier = parse_vkey(demands.vkey)
    listed = None if demands.anchors is None else fetch(LIST)
    checkpoint = open_checkpoint(note := fetch_head(fetch, verifier.name), verifier)
    cosigned = demands.check_quorum(note, verifier)
    form = _form(fetch, demands.form, checkpoint)
    keeper = Keeper(state_file, verifier, f"served, {form}")
    start = keeper.start(note.decode())
    # (2): in order: memory holds the right edge alone.
    leaves = _leaves(checkpoint, keeper) if form is Form.RECORDS else None
    with _several(fetch, start.size, checkpoint.size, at_once=at_once) as fetched:
        growing = grow(fetched, checkpoint, keeper.vouched, start)
        with keeper.keeping(growing.edge, lambda: _tally(leaves)) as reached:
            look = None if leaves is None else leaves.check
            for size in bundles(fetched, growing, checkpoint.size, look):
                reached(size)
                progress(size, checkpoint.size)
            growing.finish()
    # (3): what others hold of the log must be part of it.
    kept = _check_receipts(fetch, demands, checkpoint)
    anchored = demands.check_anchors(fetch, listed, open_tree(fetch, verifier, note))
    return VerifiedServed(
        origin=verifier.name,
        published=checkpoint.size,
        root=b64(checkpoint.root),
        form=form.value,
        by_kind={} if leaves is None else dict(sorted(leaves.kinds.items())),
        tiles=growing.compared,
        since=start.size,
        receipts=kept,
        cosigned=cosigned,
        anchored=anchored,
    )


@contextmanager
def _several(fetch: Fetch, start: int, size: int, *, at_once: bool) -> Iterator[Fetch]:
    """Fetch several pieces at once, where that is better."""
    if not at_once:
        yield fetch
        return
    with ahead(fetch, plan(start, size)) as fetched:
        yield fetched


def _leaves(checkpoint: Checkpoint, keeper: Keeper) -> Leaves:
    kinds = cast("Mapping[str, int]", keeper.tally.get("kinds", {}))
    return Leaves(checkpoint.origin, kinds)


def _tally(leaves: Leaves | None) -> Mapping[str, Json]:
    return {} if leaves is None else {"kinds": dict(leaves.kinds)}


def _form(fetch: Fetch, demanded: Form, checkpoint: Checkpoint) -> Form:
    """Return what the entries must be: where it is not said, as the first one is."""
    if demanded is not Form.AUTO or checkpoint.size == 0:
        return Form.ANY if demanded is Form.AUTO else demanded
    first = bundle_entries(fetch, Piece(None, 0, min(256, checkpoint.size)))[0]
    try:
        is_ours = read_leaf(first).log == checkpoint.origin
    except VerificationError:
        is_ours = False
    return Form.RECORDS if is_ours else Form.ANY


def _check_receipts(fetch: Fetch, demands: Demands, checkpoint: Checkpoint) -> int:
    """Verify that each receipt is kept, and return how many there are."""
    for number, receipt in demands.read_receipts():
        if receipt.index >= checkpoint.size:
            raise VerificationError(
                f"receipt {number}: the checkpoint does not reach {receipt.index} yet"
            )
        leaf = served_entry(fetch, receipt.index, checkpoint.size)
        if leaf_hash(leaf) != receipt.leaf_hash or read_leaf(leaf).id != receipt.event:
            raise VerificationError(
                f"receipt {number}: the log broke its promise at {receipt.index}"
            )
    return len(demands.receipts)
