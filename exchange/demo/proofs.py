"""What outsiders can prove about the log: a release, and that no look-up hides.

The portal proves one of its receipts under a head that the audit office's witness has
cosigned. An auditor takes the mother's own key in the log and the list of who asked
about her, and holds the list against a copy of the log.
"""

import subprocess
import sys
from pathlib import Path

import orjson

from audit.cosigning import cosigned_by
from audit.keys import LogKeys
from audit.merkle import verify_inclusion
from audit.note import open_checkpoint
from audit.policy import parse_policy
from audit.receipt import parse_proof, verify_receipt
from exchange.demo.report import Proof
from exchange.demo.stage import AUDITOR
from exchange.demo.story import World
from schemas.errors import VerificationError

_COMMAND_S = 60.0
_FAMILY = "married"


def prove_release(world: World, keys: LogKeys) -> None:
    """Prove a receipt of the portal's, as the portal or anybody it shows it to can.

    (1) The receipt is the log's promise: a leaf at an index.
    (2) The proof shows this leaf at this index, under a signed head.
    (3) The witness has cosigned the head: it saw the log grow, and only grow.
    """
    event, note = next(iter(world.report.receipts.items()))
    receipt = verify_receipt(note.encode(), keys.receipt.verifier)  # (1)
    text = world.portal.text(f"/v1/receipts/{event}.tlog-proof", {"prefer": "wait=10"})
    proof, verifier = parse_proof(text), keys.log.verifier
    checkpoint = open_checkpoint(proof.checkpoint.encode(), verifier)
    try:
        verify_inclusion(  # (2)
            *(receipt.leaf_hash, proof.index, checkpoint.size),
            *(proof.hashes, checkpoint.root),
        )
        held = proof.index == receipt.index
    except VerificationError:
        held = False
    world.report.check(
        "a release is proved to stand in the log, from the portal's receipt",
        held,
        f"record {receipt.index} of {checkpoint.size}, {len(proof.hashes)} hashes",
    )
    policy = parse_policy(world.stage.witness_policy.read_text(encoding="utf-8"))
    who = cosigned_by(proof.checkpoint.encode(), verifier, policy)  # (3)
    is_met = policy.is_met(who.keys())
    world.report.check(
        "the head above it was cosigned by the audit office's witness",
        is_met,
        ", ".join(who),
    )
    world.report.proof = Proof(
        *(receipt.index, checkpoint.size, len(proof.hashes), held),
        *(tuple(who), is_met),
    )


def take_list(world: World, folder: Path) -> None:
    """Take a mother's key in the log, and the list of who asked about her."""
    mother = world.population.families[_FAMILY].mother.id
    access = (
        *("--client", AUDITOR, "--url", world.stage.gateway_url),
        *("--key-file", str(world.stage.client_key_file(AUDITOR))),
    )
    key = ("subject-key", str(folder / "mother.key"), "--reason", "demo")
    done = _audit(*key, *access, typed=mother)
    listed = _audit(
        "query", "--subject", "--limit", "1000", "--json", *access, typed=mother
    )
    (folder / "list.json").write_bytes(listed.stdout)
    world.report.check(
        "an auditor gets the mother's key, and the list of who asked about her",
        done.returncode == listed.returncode == 0,
        done.stderr.decode()[-200:] + listed.stderr.decode()[-200:],
    )


def check_list(world: World, keys: LogKeys, log: Path, folder: Path) -> None:
    """Hold the list against a copy of the log: with the key, every leaf is tested."""
    done = _audit(
        *("complete", str(log), "--key", keys.log.verifier.vkey, "--json"),
        *("--subject-key", str(folder / "mother.key")),
        *("--list", str(folder / "list.json")),
    )
    found = orjson.loads(done.stdout) if done.stdout else {}
    world.report.check(
        "the list lacks nothing: every record of the log was tested with her key",
        done.returncode == 0 and bool(found.get("complete")),
        f"{found.get('about')} of {found.get('size')} records are about her",
    )


def _audit(*arguments: str, typed: str = "") -> "subprocess.CompletedProcess[bytes]":
    """Run a command of `errand audit` as a process of its own."""
    return subprocess.run(  # noqa: S603 - a command of our own
        [sys.executable, "-m", "exchange", "audit", *arguments],
        input=f"{typed}\n".encode(),
        capture_output=True,
        check=False,
        timeout=_COMMAND_S,
    )
