"""What whoever verifies a log demands of it, besides that it holds together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from audit.anchor import Anchored, Trust, verify_anchors
from audit.cosigning import cosigned_by
from audit.fetching import Fetch
from audit.note import Verifier, parse_vkey
from audit.policy import Policy
from audit.proving import ServedTree
from audit.receipt import Receipt, verify_receipt
from schemas.errors import VerificationError


class Form(StrEnum):
    """What the entries of a log must be."""

    AUTO = "auto"
    """Records of this exchange if the first one is, else anything."""
    RECORDS = "records"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Demands:
    """What is demanded of a served log, besides that it holds together."""

    vkey: str
    """The log's public key."""
    form: Form = Form.AUTO
    policy: Policy | None = None
    """Who must have cosigned."""
    receipts: Sequence[bytes] = ()
    """Receipts (R0) that must be kept."""
    receipt_vkey: str | None = None
    """The key they are signed with."""
    anchors: Trust | None = None
    """Whose time stamps there must be; None looks at none."""

    def check_quorum(self, note: bytes, verifier: Verifier) -> Mapping[str, int]:
        """Return who has cosigned a checkpoint, by name, and when; enough must have.

        Times are in seconds since 1970.

        Raises:
            VerificationError: Too few have, or a signature does not hold.
        """
        if self.policy is None:
            return {}
        cosigned = cosigned_by(note, verifier, self.policy)
        if not self.policy.is_met(cosigned.keys()):
            raise VerificationError("checkpoint: too few witnesses have cosigned")
        return cosigned

    def check_anchors(
        self, fetch: Fetch, listed: bytes | None, tree: ServedTree
    ) -> Anchored | None:
        """Verify all anchors, where any are demanded, as `verify_anchors` does."""
        if self.anchors is None:
            return None
        return verify_anchors(fetch, listed, tree, self.anchors)

    def read_receipts(self) -> Iterator[tuple[int, Receipt]]:
        """Yield the receipts that were given, each with its number, once verified.

        Raises:
            VerificationError: One is not signed with the key that was given.
        """
        if self.receipts and self.receipt_vkey is None:
            raise VerificationError("receipts can't be verified without their key")
        verifier = None if self.receipt_vkey is None else parse_vkey(self.receipt_vkey)
        for number, note in enumerate(self.receipts):
            if verifier is None:
                continue
            try:
                yield number, verify_receipt(note, verifier)
            except VerificationError as error:
                raise VerificationError(f"receipt {number}: {error}") from None
