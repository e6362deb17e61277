"""Trust policies: what the format allows, and nothing else; who makes a quorum."""

from itertools import chain, combinations

import pytest

from audit.note import Cosigner, Signer
from audit.policy import parse_policy
from schemas.errors import SettingsError

LOG = Signer("log.example/1", bytes(32)).verifier.vkey
W = [Cosigner(f"w{n}.example", bytes([n]) * 32).verifier.vkey for n in range(7)]
TWO_LEVELS = f"""
# Two of three departments, and one of two offices.
log {LOG} https://log.example/1/
witness d1 {W[1]} https://d1.example/
  witness\td2 {W[2]}
witness d3 {W[3]}
witness o1 {W[4]}
witness o2 {W[5]}
group departments 2 d1 d2 d3
group offices any o1 o2
group both all departments offices
quorum both
"""


def test_a_quorum_of_two_levels_is_met_by_exactly_its_sets() -> None:
    """Every subset of the witnesses, against the rule in words."""
    policy = parse_policy(TWO_LEVELS)
    names = tuple(policy.witnesses)
    subsets = chain.from_iterable(combinations(names, n) for n in range(6))
    for subset in map(frozenset, subsets):
        departments = len(subset & {"d1", "d2", "d3"})
        offices = len(subset & {"o1", "o2"})

        assert (departments >= 2 and offices >= 1) == policy.is_met(subset)
    assert ("https://log.example/1", "https://d1.example", None) == (
        policy.logs[0].url,
        policy.witnesses["d1"].url,
        policy.witnesses["d2"].url,
    )


def test_no_quorum_is_met_by_nobody() -> None:
    """And a single witness may be the quorum."""
    single = parse_policy(f"witness w {W[0]}\nquorum w\n")

    assert parse_policy("quorum none\n").is_met(frozenset())
    assert not single.is_met(frozenset())
    assert single.is_met({"w"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quorum none\nquorum none\n",
        "quorum w\n",
        f"quorum w\nwitness w {W[0]}\n",
        f"witness w {W[0]}\nwitness w {W[1]}\nquorum w\n",
        f"witness w {W[0]}\nwitness v {W[0]}\nquorum w\n",
        f"witness none {W[0]}\nquorum none\n",
        f"witness w {LOG}\nquorum w\n",
        f"witness w {W[0]} u v\nquorum w\n",
        f"log {W[0]}\nquorum none\n",
        f"log {LOG}\nlog {LOG}\nquorum none\n",
        f"log {LOG[:-1]}\nquorum none\n",
        f"witness w {W[0]}\ngroup g 2 w\nquorum g\n",
        f"witness w {W[0]}\ngroup g 0 w\nquorum g\n",
        f"witness w {W[0]}\ngroup g 01 w\nquorum g\n",
        f"witness w {W[0]}\ngroup g most w\nquorum g\n",
        f"witness w {W[0]}\ngroup g all\nquorum g\n",
        f"witness w {W[0]}\ngroup g all w w\nquorum g\n",
        f"witness w {W[0]}\ngroup g all w\ngroup h all w\nquorum g\n",
        f"witness w {W[0]}\ngroup w all w\nquorum w\n",
        f"witness w {W[0]}\ngroup g all g\nquorum g\n",
        f"witness w {W[0]}\ngroup g all none\nquorum g\n",
        "quorums none\n",
        "quorum none extra\n",
        "quorum none\r\n",
        "quorum none\n" + "#" * 300_000,
    ],
)
def test_what_is_almost_a_policy_is_refused(text: str) -> None:
    """A name that is unknown, taken or counted twice, a wrong key, another word."""
    with pytest.raises(SettingsError):
        parse_policy(text)
