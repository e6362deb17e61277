"""The code of `docs/log.md` that checks a receipt, against what this log hands out."""

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.merkle import inclusion_proof
from audit.note import Signer, b64
from audit.receipt import Proof, Receipt, sign_receipt
from schemas.ids import EventId
from tests.audit.test_merkle import mth, numbers, reader

ORIGIN = "errand.example/990100/log/2026h2"
LOG = Signer(ORIGIN, bytes(range(32)))
RECEIPTS = Signer(f"{ORIGIN}/receipt", bytes(range(32, 64)))
KEYS = RECEIPTS.verifier.vkey, LOG.verifier.vkey
EVENT = EventId("019b9c2e-5a3f-7000-8000-000000000000")


def _code() -> dict[str, Any]:
    """Run the document's own code, and return what it defines."""
    text = Path("docs/log.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    defined: dict[str, Any] = {}
    exec(block, defined)  # noqa: S102 - our own document
    return defined


CODE = _code()


def _handed_out(index: int, size: int) -> tuple[str, str]:
    """Return a receipt, and its proof in a tree."""
    leaves = numbers(size)
    receipt = Receipt(EVENT, index, leaves[index], 1767853800123)
    head = LOG.sign(f"{ORIGIN}\n{size}\n{b64(mth(leaves))}\n")
    hashes = inclusion_proof(reader(leaves), index, size)
    proof = Proof(index, tuple(hashes), head)
    return sign_receipt(RECEIPTS, receipt), proof.as_text()


@settings(max_examples=60)
@given(st.integers(1, 100), st.data())
def test_the_documents_code_accepts_what_the_log_hands_out(
    size: int, data: st.DataObject
) -> None:
    """A kept promise is a kept promise, wherever in the tree it stands."""
    receipt, proof = _handed_out(data.draw(st.integers(0, size - 1)), size)

    CODE["check_kept"](receipt, proof, *KEYS)


@settings(max_examples=60)
@given(st.integers(2, 50), st.data())
def test_the_documents_code_refuses_another_leaf_and_what_was_changed(
    size: int, data: st.DataObject
) -> None:
    """A proof of another leaf, a changed digit and another key are refused."""
    index = data.draw(st.integers(0, size - 1))
    receipt, proof = _handed_out(index, size)
    _, other = _handed_out((index + 1) % size, size)
    forged = receipt.replace("1767853800123", "1767853800124")
    relabelled = other.replace(f"index {(index + 1) % size}\n", f"index {index}\n")
    for wrong in (
        (receipt, other, *KEYS),
        (receipt, relabelled, *KEYS),
        (forged, proof, *KEYS),
        (receipt, proof, *reversed(KEYS)),
    ):
        with pytest.raises((AssertionError, ValueError, IndexError, InvalidSignature)):
            CODE["check_kept"](*wrong)
