"""The log over HTTP: tiles for everybody, entries for members, and proofs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.note import Checkpoint, open_checkpoint, parse_vkey
from audit.receipt import parse_proof, verify_proof
from audit.tiles import split_bundle
from tests.audit.examples import pieces_of_size
from tests.harness.application import AUDITOR, OPERATOR, PORTAL, Site, a_site
from tests.harness.commands import errand
from tests.harness.patience import until
from tests.harness.verifiers import build_go_verifier, node_verifier, run

MANY = 260
"""Records enough for a full tile and one more."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run an application whose log has more than one tile."""
    with a_site(tmp_path_factory.mktemp("site")) as running:
        auditor = running.client(AUDITOR)
        for _ in range(MANY):
            auditor.get("/v1/audit/records", params={"limit": 1})
        until(lambda: head_of(running).size >= MANY, "all published")
        yield running


def head_of(site: Site) -> Checkpoint:
    """Return the published head."""
    anyone = site.client(None)
    vkey = anyone.get("/log/keys").text.splitlines()[0]
    return open_checkpoint(anyone.get("/log/checkpoint").content, parse_vkey(vkey))


def test_every_piece_of_a_checkpoint_is_served_to_be_kept(site: Site) -> None:
    """With the content type of the format, and for good."""
    anyone, auditor = site.client(None), site.client(AUDITOR)
    head = anyone.get("/log/checkpoint")
    size = int(head.text.split("\n")[1])
    answers = {
        piece: (anyone if piece.level is not None else auditor).get(
            f"/log/{piece.path}"
        )
        for piece in pieces_of_size(size)
    }

    assert "text/plain; charset=utf-8" == head.headers["content-type"]
    assert "public, max-age=1" == head.headers["cache-control"]
    for piece, answer in answers.items():
        whose = "private" if piece.level is None else "public"

        assert 200 == answer.status_code
        assert "application/octet-stream" == answer.headers["content-type"]
        assert (
            f"{whose}, max-age=31536000, immutable" == (answer.headers["cache-control"])
        )
        if piece.level is None:
            assert piece.width == len(split_bundle(answer.content))
        else:
            assert 32 * piece.width == len(answer.content)


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/000.p/0",
        "tile/0/x999/000",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/1/001",
        "tile/63/000.p/1",
        "tile/99/000",
        "tile/entries/x001/000.p/1",
        "tile/entries/..%2f000",
        "tile/0/0%2e",
    ],
)
def test_what_no_checkpoint_implies_is_not_there_and_not_remembered(
    site: Site, path: str
) -> None:
    """Soon it may be there: nobody on the way keeps the 404."""
    answer = site.client(AUDITOR).get(f"/log/{path}")

    assert 404 == answer.status_code
    assert answer.json()["type"].endswith("/not-found")
    assert "no-store" == answer.headers["cache-control"]


def test_entries_are_for_members_alone(site: Site) -> None:
    """They name organisations and times: a token of another scope is not enough."""
    path = "/log/tile/entries/000"
    statuses = [
        site.client(name).get(path).status_code
        for name in (None, PORTAL, OPERATOR, AUDITOR)
    ]

    assert [401, 403, 403, 200] == statuses


def test_fetching_the_log_leaves_no_record(site: Site) -> None:
    """Else a mirror would follow itself for ever; a question does leave one."""
    before = site.gateway.log.size
    for piece in pieces_of_size(256):
        site.client(AUDITOR).get(f"/log/{piece.path}")
    fetched = site.gateway.log.size
    site.client(AUDITOR).get("/v1/audit/records")

    assert before == fetched
    assert before < site.gateway.log.size


def test_others_verify_the_log_as_it_is_served(site: Site, tmp_path: Path) -> None:
    """Go's packages prove every leaf; our page of JavaScript recomputes the root."""
    program, (node, script) = build_go_verifier(tmp_path), node_verifier()
    vkey = site.client(None).get("/log/keys").text.splitlines()[0]
    token = site.client(AUDITOR).headers["authorization"].removeprefix("Bearer ")
    by_go = run(program, f"{site.url}/log", vkey)
    by_node = run(node, script, f"{site.url}/log", vkey, token)
    without = run(node, script, f"{site.url}/log", vkey)
    origin = vkey.partition("+")[0]

    assert 0 == by_go.returncode, by_go.stderr
    assert by_go.stdout.startswith(f"{origin} ")
    assert 0 == by_node.returncode, by_node.stderr
    assert by_node.stdout.startswith(f"{origin}: ")
    assert 2 == without.returncode
    assert "TOKEN must be an auditor's" in without.stderr


def test_a_proof_waits_for_its_checkpoint_and_holds(site: Site) -> None:
    """`Prefer: wait` gives a fresh record's proof in one answer."""
    auditor, portal = site.client(AUDITOR), site.client(PORTAL)
    query = {"kind": "audit.query"}
    auditor.get("/v1/audit/records", params=query)
    event = auditor.get("/v1/audit/records", params=query).json()["records"][0]["event"]
    path = f"/v1/receipts/{event}"
    answer = portal.get(f"{path}.tlog-proof", headers={"prefer": "wait=20"})
    whole = portal.get(path, headers={"prefer": "wait=20"})
    leaf = auditor.get(f"/v1/audit/records/{event}").json()["leaf"]
    vkey = parse_vkey(portal.get("/log/keys").text.splitlines()[0])
    proof = parse_proof(answer.text)

    assert "text/plain; charset=utf-8" == answer.headers["content-type"]
    assert "wait=20" == answer.headers["preference-applied"]
    assert verify_proof(proof, leaf.encode(), vkey).size > proof.index
    assert proof.index == parse_proof(whole.json()["proof"]).index


def test_an_event_that_nobody_recorded_has_no_proof(site: Site) -> None:
    """Waiting would not help, so nobody waits."""
    path = "/v1/receipts/0190c000-0000-7000-8000-000000000001.tlog-proof"
    answer = site.client(PORTAL).get(path, headers={"prefer": "wait=30"})

    assert answer.json()["type"].endswith("/not-found")
    assert 401 == site.client(None).get(path).status_code


def test_a_portal_checks_its_receipt_with_commands_alone(
    site: Site, tmp_path: Path
) -> None:
    """By the proof that it is given, and by tiles: it has no auditor's token."""
    page = site.client(AUDITOR).get("/v1/audit/records", params={"limit": 100}).json()
    event, held = page["records"][-1]["event"], tmp_path / "held.json"
    (tmp_path / "key.pem").write_bytes(site.keys[PORTAL].to_pem())
    asked = errand(
        *("audit", "receipt", event, "--url", site.url, "--scope", "portal"),
        *("--client", PORTAL, "--key-file", tmp_path / "key.pem"),
    )
    held.write_text(asked.stdout, encoding="utf-8")
    log, receipts = site.client(None).get("/log/keys").text.splitlines()
    check = ("audit", "check", held, "--vkey", log, "--receipt-key", receipts, "--json")
    proved, made = errand(*check), errand(*check, "--log", f"{site.url}/log")

    assert [0, 0] == [proved.status, made.status], proved.stderr + made.stderr
    for found in (proved.json, made.json):
        assert (event, True) == (found["event"], found["proved"])
