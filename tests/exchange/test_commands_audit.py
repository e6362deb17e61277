"""`errand audit` and `errand token` against a gateway: what an auditor gets."""

import gzip
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typing_extensions import override

from audit.keys import load_keys, make_keys
from exchange.cli.console import get_json
from exchange.cli.records import _all_pages
from schemas.errors import ErrandError
from tests.audit.test_served import served
from tests.harness.application import (
    AUDITOR,
    FATHER,
    MOTHER,
    PORTAL,
    SCOPES,
    Site,
    a_site,
)
from tests.harness.commands import Done, errand
from tests.harness.patience import until
from tests.harness.verifiers import node_verifier, run
from tests.harness.witnesses import answering

BECAUSE = "file-2026-118"
NOBODY = "990101200001010006"
MISTYPED = MOTHER[:-1] + ("0" if MOTHER[-1] != "0" else "1")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run an application in which the mother stands in more than 50 records."""
    with a_site(tmp_path_factory.mktemp("site")) as running:
        running.open_case(running.client(PORTAL))
        about = {"errand-subject": f"citizen_id:{MOTHER}"}
        for _ in range(60):
            running.client(AUDITOR).get("/v1/audit/records?limit=1", headers=about)
        anyone = running.client(None)
        until(lambda: anyone.get("/log/checkpoint").is_success, "published")
        yield running


@pytest.fixture
def place(gateway: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Place":
    """Return a folder with the clients' keys and an auditor's token."""
    monkeypatch.chdir(tmp_path)
    return Place(gateway, tmp_path)


class Place:
    """Where an auditor works."""

    def __init__(self, site: Site, folder: Path) -> None:
        for client in SCOPES:
            Path(folder, f"{client}.pem").write_bytes(site.keys[client].to_pem())
        bearer = site.client(AUDITOR).headers["authorization"]
        Path(folder, "token").write_text(bearer.removeprefix("Bearer ") + "\n")
        self.site, self.folder = site, folder
        self.log = f"{site.url}/log"
        self.vkey = site.gateway.keys.log.log.verifier.vkey

    def audit(self, name: str, *arguments: str | Path, stdin: str = "") -> Done:
        """Run a command that asks the gateway as the auditor."""
        who = ("--client", AUDITOR, "--key-file", f"{AUDITOR}.pem")
        return errand(
            "audit", name, *arguments, *who, "--url", self.site.url, stdin=stdin
        )

    def settle(self) -> None:
        """Wait until all that is recorded is published."""
        log, served = self.site.gateway.log, self.site.client(None)
        until(
            lambda: int(served.get("/log/checkpoint").text.split("\n")[1]) >= log.size,
            "all published",
        )


def test_a_list_of_several_pages_is_shown_to_be_complete(place: Place) -> None:
    """As the guide prints it: the key, all pages, and every leaf of the log."""
    issued = place.audit("subject-key", "m.key", "--reason", BECAUSE, stdin=MOTHER)
    listed = place.audit("query", "--subject", "--all", "--json", stdin=MOTHER)
    Path("list.json").write_text(listed.stdout)
    place.settle()
    command = ("complete", place.log, "--vkey", place.vkey, "--token-file", "token")
    given = ("--subject-key", "m.key", "--list", "list.json", "--json")
    found = errand("audit", *command, *given)

    assert [0] * 3 == [one.status for one in (issued, listed, found)], found
    assert 60 < found.json["listed"] == found.json["about"]
    assert None is listed.json["next"]


def test_pages_are_gone_through_one_by_one(place: Place) -> None:
    """`--after` takes the `next` of the answer before, which both forms print."""
    first = place.audit("query", "--subject", "--limit", "40", "--json", stdin=MOTHER)
    after = ("--after", first.json["next"])
    second = place.audit("query", "--subject", *after, "--json", stdin=MOTHER)
    shown = place.audit("query", "--subject", "--limit", "40", stdin=MOTHER)
    both = place.audit("query", "--all", *after)

    assert [0] * 3 == [one.status for one in (first, second, shown)]
    last = first.json["records"][-1]["index"]
    assert last > second.json["records"][0]["index"]
    assert shown.stdout.splitlines()[-1].startswith("there are more: --after ")
    assert 2 == both.status
    assert "takes no `--after`" in both.stderr


@pytest.mark.parametrize("size", [1, 2, 999, 2_500])
def test_all_pages_have_the_questions_that_were_asked_for_them(size: int) -> None:
    """Each question is a record; the last answer has those of all others."""
    log = [{"event": str(number)} for number in range(size)]

    def ask(after: str | None) -> dict[str, Any]:
        log.append({"event": str(len(log))})
        end = len(log) if after is None else int(after)
        start = max(0, end - 1_000)
        return {"records": log[start:end][::-1], "next": str(start) if start else None}

    answer = _all_pages(ask)

    assert log[::-1] == answer["records"]
    assert None is answer["next"]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_what_the_next_command_takes_is_never_cut(
    place: Place, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Events and holds stand whole in tables, and what a person reads as well."""
    held = place.audit("hold", "--reason", "r" * 60, "--json", stdin=MOTHER).json
    monkeypatch.setenv("COLUMNS", columns)
    holds = place.audit("holds")
    query = place.audit("query", "--limit", "5", "--json").json
    records = place.audit("query", "--limit", "7")
    place.audit("release", held["event"], "--reason", BECAUSE)

    assert held["event"] in holds.stdout
    assert held["name"] in holds.stdout
    assert AUDITOR in holds.stdout
    for row in query["records"]:
        for value in (row["event"], str(row["index"]), row["kind"], row["requester"]):
            assert value in records.stdout
    for line in (holds.stdout + records.stdout).splitlines():
        assert "…" not in line
        assert cell_len(line) <= int(columns)


def test_a_leaf_is_written_exactly_as_an_accusation_takes_it(place: Place) -> None:
    """What `show` prints is indented and accuses nobody: status 2 says why."""
    event = place.audit("query", "--limit", "1", "--json").json["records"][0]["event"]
    place.settle()
    shown = place.audit("show", event, "--leaf", "leaf.json")
    stored = ("--log", str(place.site.gateway.settings.log_file))
    offline = errand("audit", "show", event, *stored, "--leaf", "leaf2.json")
    Path("shown.json").write_text(shown.stdout)
    given = place.audit("receipt", event).json
    Path("receipt.txt").write_text(given["receipt"])
    Path("proof.tlog-proof").write_text(given["proof"])
    receipts = place.site.gateway.keys.log.receipt.verifier.vkey
    accuse = ("audit", "accuse", "receipt.txt", "proof.tlog-proof")
    keys = ("--key", place.vkey, "--receipt-key", receipts)
    honest = errand(*accuse, "--leaf", "leaf.json", *keys)
    indented = errand(*accuse, "--leaf", "shown.json", *keys)
    leafless = errand(*accuse, *keys)
    note = errand("audit", "accuse", "shown.json", "receipt.txt", *keys)
    unsigned = errand(*accuse[:3], "--key", _strange(), "--receipt-key", _strange())
    many = errand(*accuse[:3], "--leaf", "leaf.json", *keys)

    assert (0, 0) == (shown.status, offline.status)
    assert Path("leaf.json").read_bytes() == Path("leaf2.json").read_bytes()
    assert shown.json["leaf"] == offline.json["leaf"]
    assert (0, "no contradiction\n") == (honest.status, honest.stdout)
    refused = (indented, leafless, note, unsigned, many)
    assert [2] * 5 == [one.status for one in refused]
    assert all("--leaf FILE` writes" in one.stderr for one in refused[:4])


def _strange() -> str:
    """Return the key of somebody else."""
    return make_keys("other.example/log").log.verifier.vkey


@pytest.mark.parametrize("command", ["verify", "fsck"])
def test_what_could_not_be_verified_is_no_verdict(place: Place, command: str) -> None:
    """Status 2, and what to do; 1 stays for a log that does not hold."""
    vkey, token = ("--vkey", place.vkey), ("--token-file", "token")
    Path("portal").write_text(
        place.site.client(PORTAL).headers["authorization"].removeprefix("Bearer ")
    )
    Path("wrong").write_text("not.a.token")
    for arguments, says in (
        ((place.log, *vkey), "`--token-file`"),
        ((place.log, *vkey, "--token-file", "wrong"), "is not an auditor's, or has"),
        ((place.log, *vkey, "--token-file", "portal"), "is not an auditor's, or has"),
        (("http://127.0.0.1:9/log", *vkey), "is the server running"),
        ((place.log, "--vkey", place.vkey[:-2], *token), "this key is no vkey"),
        ((place.log, "--vkey", "garbage", *token), "`errand keys show`"),
        ((place.site.url, *vkey, *token), "ends in `/log`"),
        ((place.log, *vkey, *token, "--shard", "2099h1"), "there is no shard `2099h1`"),
        (("nowhere", *vkey), "there is no log at `nowhere`"),
    ):
        done = errand("audit", command, *arguments)

        assert (2, True) == (done.status, says in done.stderr), done
        assert 1 == done.stderr.count("\n")


@pytest.mark.parametrize("command", ["verify", "fsck"])
def test_the_first_shard_is_found_where_nothing_was_sealed(
    place: Place, command: str
) -> None:
    """`--shard first` means the same wherever a log is named."""
    given = ("--vkey", place.vkey, "--token-file", "token", "--shard", "first")
    by_address = errand("audit", command, place.log, *given, "--json")
    folder = place.site.gateway.settings.data_dir
    by_folder = errand("audit", command, folder, *given[:2], *given[4:], "--json")

    assert (0, 0) == (by_address.status, by_folder.status), by_address
    assert by_address.json["origin"] == by_folder.json["origin"]


def test_a_condition_that_no_record_meets_is_said_to_be_perhaps_mistyped(
    place: Place,
) -> None:
    """An empty answer never reads as "nobody asked" where a word is wrong."""
    wrong = ("--provider", "nosuch", "--requester", PORTAL, "--outcome", "answred")
    empty = place.audit("query", *wrong, "--json")
    shown = place.audit("query", *wrong)
    right = place.audit(
        *("query", "--requester", AUDITOR, "--until", "2020-01-01T00:00:00Z", "--json")
    )

    assert [0, 0, 0] == [done.status for done in (empty, shown, right)], empty
    assert ([], ["provider", "outcome"]) == (
        empty.json["records"],
        empty.json["unmatched"],
    )
    assert "no record at all meets --provider: is it mistyped?" in shown.stdout
    assert "--requester" not in shown.stdout
    assert "nosuch" not in shown.stdout
    assert ([], []) == (right.json["records"], right.json["unmatched"])


@pytest.mark.parametrize("since", ["2026-07-02T00:00:00Z", "2026-07-01T08:00:00+08:00"])
def test_a_time_that_ends_before_it_begins_is_refused(place: Place, since: str) -> None:
    """Nothing can have happened in it: by the commands, and by the API."""
    until = "2026-07-01T00:00:00Z"
    span = ("--since", since, "--until", until)
    data = place.site.gateway.settings.data_dir
    done = (
        place.audit("query", *span),
        errand("audit", "export", data, "x.ndjson", "--format", "ndjson", *span),
    )
    answer = place.site.client(AUDITOR).get(
        "/v1/audit/records", params={"since": since, "until": until}
    )

    assert [(2, "")] * 2 == [(one.status, one.stdout) for one in done]
    assert all("`--since` must be before `--until`" in one.stderr for one in done)
    assert 422 == answer.status_code
    assert ["since", "until"] == [one["parameter"] for one in answer.json()["errors"]]


def test_a_problem_is_told_with_its_places_and_without_values(place: Place) -> None:
    """The title alone would leave whoever asked to guess."""
    reason = place.audit("hold", "--reason", f"about {MOTHER}", stdin=MOTHER)
    requester = place.audit("query", "--requester", "No Such Body")
    event = place.audit("show", "990101199403120026")
    release = place.audit("release", "none", "--reason", BECAUSE)
    key = place.audit("subject-key", "k", "--reason", "a b", stdin=MOTHER)
    failed = (reason, requester, event, release, key)

    assert [2] * 5 == [one.status for one in failed]
    for done, where in zip(
        failed, ("/reason", "requester", "event", "hold", "/reason"), strict=True
    ):
        assert done.stderr.startswith("errand: Parts of the request are wrong: ")
        assert f": {where}: " in done.stderr
        assert MOTHER not in done.stderr
        assert "No Such" not in done.stderr
    assert not Path("k").exists()


@pytest.mark.parametrize(
    ("typed", "says"),
    [(MISTYPED, "check digit"), ("hello", "17 digits and a check digit")],
)
def test_a_mistyped_id_does_not_look_like_one_nobody_asked_about(
    place: Place, typed: str, says: str
) -> None:
    """It is refused wherever it is looked for, and not repeated."""
    asked = place.audit("query", "--subject", stdin=typed)
    data = place.site.gateway.settings
    export = ("audit", "export", data.data_dir, "out", "--format", "ndjson")
    keys = ("--subject", "--keys", data.keys_dir / "log")
    exported = errand(*export, *keys, stdin=typed)
    about = {"errand-subject": f"citizen_id:{typed}"}
    answer = place.site.client(AUDITOR).get("/v1/audit/records", headers=about)

    assert (2, 2, 422) == (asked.status, exported.status, answer.status_code)
    [error] = answer.json()["errors"]
    assert "Errand-Subject" == error["header"]
    for told in (asked.stderr, exported.stderr, error["detail"]):
        assert says in told
        assert typed not in told


@pytest.mark.parametrize(
    ("about", "status"),
    [
        (f"citizen_id:{FATHER}", 200),
        ("credit_code:91350100M000100Y43", 200),
        ("credit_code:91350100M000100Y44", 422),
        ("uscc:91350100M000100Y43", 422),
        ("text:anything", 200),
    ],
)
def test_an_id_that_nobody_has_is_taken_where_somebody_could(
    place: Place, about: str, status: int
) -> None:
    """Nobody asked about them: that is an answer."""
    headers = {"errand-subject": about}
    answer = place.site.client(AUDITOR).get("/v1/audit/records", headers=headers)

    assert status == answer.status_code
    assert 200 != status or [] == answer.json()["records"]


def test_who_was_looked_for_before_anything_was_known_can_see_it(
    place: Place,
) -> None:
    """A question about somebody unknown is a record about them, as the next one is."""
    headers = {"errand-subject": "text:nobody-yet"}
    auditor = place.site.client(AUDITOR)
    first, second = (
        auditor.get("/v1/audit/records", headers=headers).json() for _ in range(2)
    )

    assert [] == first["records"]
    assert ["audit.query"] * 2 == [row["kind"] for row in second["records"]]


def test_a_key_is_not_asked_for_where_it_can_t_be_kept(place: Place) -> None:
    """Once it is given out that is on record, and nobody may have lost it."""

    def issued() -> int:
        found = place.audit("query", "--kind", "key.issued", "--json")
        return len(found.json["records"])

    before = issued()
    nowhere = place.audit("subject-key", "no/p.key", "--reason", "f-7", stdin=MOTHER)
    Path("there.key").write_text("kept")
    there = place.audit("subject-key", "there.key", "--reason", "f-7", stdin=MOTHER)
    nobody = place.audit("subject-key", "new.key", "--reason", "f-7", stdin=NOBODY)

    assert [2] * 3 == [one.status for one in (nowhere, there, nobody)]
    assert before == issued()
    assert "kept" == Path("there.key").read_text()
    assert not Path("new.key").exists()


def test_an_address_is_taken_with_a_slash_and_explained_when_it_is_none(
    place: Place,
) -> None:
    """Of somebody else's server too it is told what is missing there."""
    who = ("--client", AUDITOR, "--key-file", f"{AUDITOR}.pem")
    good = errand("token", "auditor", *who, "--url", place.site.url + "/")
    for url, says in (
        ("ftp://127.0.0.1", "`--url` is an address such as"),
        ("127.0.0.1:8800", "`--url` is an address such as"),
        (f"{place.site.url}/log", "no gateway answers at"),
    ):
        done = errand("token", "auditor", *who, "--url", url)

        assert (2, True) == (done.status, says in done.stderr)
    assert 0 == good.status
    assert 2 == good.stdout.count(".")


@pytest.mark.parametrize(
    ("header", "body", "says"),
    [
        ("location: http:@", b"{}", "HTTP 301"),
        ("content-encoding: gzip", gzip.compress(b"{}"), "packed"),
        ("x-none: none", bytes((32 << 20) + 1), "too large"),
    ],
    ids=["elsewhere", "packed", "large"],
)
def test_a_server_that_is_no_gateway_costs_one_line(
    place: Place, header: str, body: bytes, says: str
) -> None:
    """Nobody follows where it points to, unpacks what it sends, or reads for ever."""

    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            self.send_response(301)
            self.send_header(*header.split(": "))
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - as the handler wants it

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Keep it to itself."""

    who = ("--client", AUDITOR, "--key-file", f"{AUDITOR}.pem")
    with answering(Other) as url:
        token = errand("token", "auditor", *who, "--url", url)
        shards = errand("audit", "shards", url, "--vkey", place.vkey)
        with pytest.raises(ErrandError) as asked:
            get_json(f"{url}/v1/audit/records", {}, {})

    for told in (token.stderr, shards.stderr, f"errand: {asked.value}\n"):
        assert says in told
        assert 1 == told.count("\n")
    assert (2, 2) == (token.status, shards.status)


def test_an_address_without_a_list_of_shards_is_told(place: Place) -> None:
    """Such as that of the gateway, in the place of its log's."""
    vkey = ("--vkey", place.vkey)
    done = errand("audit", "shards", place.site.url, *vkey)
    listed = errand("audit", "shards", place.log, *vkey, "--json")

    assert (2, 0) == (done.status, listed.status)
    assert "no list of shards is served there" in done.stderr
    assert 1 == len(listed.json)


def test_the_verifier_for_node_says_what_it_lacks(place: Place) -> None:
    """One line each, never a stack of calls."""
    node, script = node_verifier()
    for arguments, says in (
        ((), "usage:"),
        ((place.log, place.vkey[:-4]), "the vkey is not whole"),
        ((place.log, "none"), "VKEY is no vkey"),
        ((place.log, place.vkey), "TOKEN must be an auditor's"),
        ((place.log, place.vkey, "wrong"), "TOKEN must be an auditor's"),
        ((place.site.url, place.vkey), "ends in /log"),
        (("http://127.0.0.1:9", place.vkey), "bad port"),
        (("nowhere", place.vkey), "there is no checkpoint"),
    ):
        done = run(node, script, *arguments)

        assert (2, True) == (done.returncode, says in done.stderr), done
        assert 1 == done.stderr.count("\n")


def test_the_gateways_keys_are_told_from_the_logs(place: Place) -> None:
    """`keys` holds them all: the log's own are one folder below."""
    settings = place.site.gateway.settings
    verify = ("audit", "verify", settings.data_dir, "--vkey", place.vkey, "--keys")
    wrong = errand(*verify, settings.keys_dir)

    assert load_keys(settings.keys_dir / "log").log.verifier.vkey == place.vkey
    assert 2 == wrong.status
    assert f"the log's own are in `{settings.keys_dir / 'log'}`" in wrong.stderr
    assert os.access(settings.keys_dir / "log" / "log.key", os.R_OK)


def test_a_shard_is_found_in_a_store_that_is_served(
    place: Place, tmp_path: Path
) -> None:
    """There later shards are folders below the first, and no list says so."""
    data = place.site.gateway.settings.data_dir
    assert 0 == errand("audit", "export", data, tmp_path / "later").status
    shutil.copytree(tmp_path / "later", tmp_path / "store")
    (tmp_path / "later").rename(tmp_path / "store" / "2026h2")
    checked = ("--vkey", place.vkey, "--json", "--shard")
    with served(tmp_path / "store") as url:
        first, later, none = (
            errand("audit", "fsck", url, *checked, shard)
            for shard in ("first", "2026h2", "2027h1")
        )

    assert (0, 0, 2) == (first.status, later.status, none.status)
    assert first.json == later.json
    assert "there is no shard `2027h1`" in none.stderr
