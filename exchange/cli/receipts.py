"""The command that checks a receipt: for portals and departments, who hold one."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import orjson
import typer

from exchange.cli.console import A_PLACE, AsJson, make_table, print_json, print_table
from exchange.cli.logs import (
    LogKey,
    PolicyFile,
    ShardName,
    check_keys,
    check_receipt_form,
    opened,
    read_policy,
    read_proof,
    read_vkey,
)
from exchange.files import read_file
from schemas.errors import ErrandError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from audit.note import Verifier
    from audit.policy import Policy
    from audit.receipt import Proof, Receipt
    from schemas.canonical import Json

app = typer.Typer()
"""Part of the group `audit`."""


@app.command("check")
def check_receipt(  # noqa: PLR0913 - what is held, and what it is held against
    receipt: Annotated[
        Path, typer.Argument(help="The signed note, or what `receipt` printed (JSON).")
    ],
    proof: Annotated[
        Path | None, typer.Argument(help="Its `.tlog-proof`, where that is at hand.")
    ] = None,
    *,
    key: LogKey,
    receipt_key: Annotated[
        str, typer.Option(help="The vkey of its receipts.", callback=read_vkey)
    ],
    log: Annotated[
        str | None,
        typer.Option(help="Where its tiles are: the proof is made from these."),
        A_PLACE,
    ] = None,
    shard: ShardName = None,
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """Check a receipt, and that the log kept its promise: status 1 if it did not.

    No token is needed: a proof is enough, or the tiles, which everybody may read. With
    neither, the signature is all that is checked.
    """
    from audit.note import b64, parse_vkey

    if proof is not None and log is not None:
        raise ErrandError("give a proof, or `--log`, from which one is made")
    check_keys(key, receipt_key)
    held = _read_held(receipt, proof)
    verifier = parse_vkey(key)
    promised = _promised(receipt, held.note, parse_vkey(receipt_key))
    shown = held.proof if log is None else _proof_in(log, shard, verifier, promised)
    found: dict[str, Json] = {
        "event": promised.event,
        "index": promised.index,
        "leaf_hash": b64(promised.leaf_hash),
        "at_ms": promised.at_ms,
        "proved": shown is not None,
    }
    if shown is not None:
        found |= _kept(promised, shown, verifier, read_policy(policy))
    elif policy is not None:
        raise ErrandError("who cosigned is said of a proof: give one, or `--log`")
    _show(found, as_json=as_json)


class _Held(NamedTuple):
    """What somebody holds of a record."""

    note: bytes
    """The receipt."""
    proof: "Proof | None"


def _read_held(receipt: Path, proof: Path | None) -> _Held:
    """Return what files hold: notes and proofs, or the gateway's answer with both.

    Raises:
        ErrandError: The answer has not the fields of one.
        UnverifiableError: The receipt or the proof is none.
    """
    note, text = read_file(receipt), None
    if note.startswith(b"{"):
        try:
            told = orjson.loads(note)
            note, text = told["receipt"].encode(), told["proof"]
        except (ValueError, LookupError, AttributeError):
            raise ErrandError(f"`{receipt.name}` is no answer with a receipt") from None
    check_receipt_form(receipt, note)
    if proof is not None:
        text = read_file(proof).decode("utf-8", "replace")
    shown = None if text is None else read_proof(proof or receipt, str(text))
    return _Held(note, shown)


def _promised(file: Path, note: bytes, verifier: "Verifier") -> "Receipt":
    """Return the promise of a receipt.

    Raises:
        VerificationError: This log has not given it; says which log was meant.
    """
    from audit.receipt import verify_receipt

    try:
        return verify_receipt(note, verifier)
    except VerificationError as error:
        raise VerificationError(
            f"`{file.name}` is no receipt of `{verifier.name}`: {error}"
        ) from None


def _proof_in(
    log: str, shard: str | None, verifier: "Verifier", promised: "Receipt"
) -> "Proof":
    """Return the proof that a log keeps a promise, from its tiles alone."""
    from audit.proving import open_tree, prove_kept

    with opened(log, None, shard) as fetch:
        return prove_kept(open_tree(fetch, verifier), promised)


def _kept(
    promised: "Receipt", proof: "Proof", verifier: "Verifier", policy: "Policy | None"
) -> "Mapping[str, Json]":
    """Return what a proof shows: under which head the promised leaf stands.

    Raises:
        VerificationError: It shows nothing, or too few have cosigned the head.
    """
    from audit.demands import Demands
    from audit.note import b64
    from audit.receipt import verify_kept

    head = verify_kept(promised, proof, verifier)
    demands = Demands(verifier.vkey, policy=policy)
    cosigned = demands.check_quorum(proof.checkpoint.encode(), verifier)
    return {"size": head.size, "root": b64(head.root), "cosigned": dict(cosigned)}


def _show(found: "Mapping[str, Json]", *, as_json: bool) -> None:
    """Show what holds."""
    if as_json:
        print_json({"verified": True, **found})
        return
    title = "The log kept its promise" if found["proved"] else "The log has promised"
    shown = make_table(title, "what", "found")
    for name, value in found.items():
        told = ", ".join(value) if isinstance(value, dict) else str(value)
        shown.add_row(name.replace("_", " "), told)
    print_table(shown)
