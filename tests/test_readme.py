"""What the README tells people to type is typed here (decision 25)."""

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from tests.harness.ports import free_ports_in_a_row
from tests.harness.shell_blocks import BlockFailedError, run_blocks, shell_blocks

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "consents-and-mandates.md"
MADE_BY_MAKE = ROOT / ".venv" / ".made-from-lock"
PATIENCE_S = 300.0


@pytest.mark.skipif(
    not MADE_BY_MAKE.exists(), reason="`make` would make .venv anew under the tests"
)
def test_the_shell_blocks_of_the_readme_run(tmp_path: Path) -> None:
    """As a portal's developer types them, from first to last."""
    text = README.read_text(encoding="utf-8")
    shown = _shown(_elsewhere(text, tmp_path), {"TMPDIR": str(tmp_path)})

    assert shown
    assert [] == [output for output in shown if output not in text]


def test_the_shell_blocks_of_the_guide_run(tmp_path: Path) -> None:
    """As a citizen app's developer types them, wherever Errand is installed."""
    text = GUIDE.read_text(encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    more = {"TMPDIR": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT)}
    shown = _shown(_installed(_elsewhere(text, tmp_path)), more)

    assert shown
    assert [] == [output for output in shown if output not in text]


def _shown(text: str, more: dict[str, str]) -> list[str]:
    """Type the blocks of a document; return what they print, but for the first."""
    printed = run_blocks(text, ROOT, {**os.environ, **more}, patience_s=PATIENCE_S)
    return [output.strip() for output in printed[1:] if output.strip()]


def _installed(text: str) -> str:
    """Return a document with the commands of the installation that runs the tests."""
    text = re.sub(r'make serve ARGS="(.*)"', r"errand demo --serve \1", text)
    return text.replace(".venv/bin/", "")


def test_what_documents_write_lies_where_git_does_not_look() -> None:
    """Evidence about a person must not be committed by accident."""
    written = {
        (document.name, target)
        for document in (README, GUIDE)
        for block in shell_blocks(document.read_text(encoding="utf-8"))
        for target in re.findall(r"> (\S+)$", block.text, re.MULTILINE)
    }
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()

    assert "/var/" in ignored
    assert len(written) == 3
    assert [] == [one for one in written if not one[1].startswith("var/")]


def _elsewhere(text: str, folder: Path) -> str:
    """Return a document with free ports, a small town and a folder of one's own."""
    port = free_ports_in_a_row(9)
    town = folder / "demo"
    serve = f'make serve ARGS="--port {port} --folder {town} --people 300"'
    return (
        text.replace("make serve\n```", f"{serve}\n```")
        .replace("127.0.0.1:8800", f"127.0.0.1:{port}")
        .replace("var/", f"{folder}/")
    )


def test_every_make_target_of_the_readme_is_one() -> None:
    """Also in blocks that are shown and not run."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = README.read_text(encoding="utf-8")
    named = {
        target
        for block in shell_blocks(text)
        for target in re.findall(r"^make ([a-z]+)", block.text, re.MULTILINE)
    }

    assert named <= targets


def test_blocks_share_one_shell(tmp_path: Path) -> None:
    """A variable that one block sets is there in the next."""
    document = "```sh\nx=7\n```\ntext\n```sh\necho $((x + 1))\n```\n"
    printed = run_blocks(document, tmp_path, os.environ, patience_s=30)

    assert printed == ["", "8\n"]


def test_a_block_that_fails_is_named(tmp_path: Path) -> None:
    """The line and the output are in the message, and nothing after it is run."""
    document = "a\n```sh\necho before\nfalse\n```\n```sh\ntouch after\n```\n"
    with pytest.raises(BlockFailedError, match=r"(?s)line 3 failed.*before"):
        run_blocks(document, tmp_path, os.environ, patience_s=30)

    assert not (tmp_path / "after").exists()


def test_a_block_that_is_shown_alone_is_not_run(tmp_path: Path) -> None:
    """The comment before it says why."""
    document = "<!-- not run: it is long -->\n```sh\ntouch made\n```\n"
    printed = run_blocks(document, tmp_path, os.environ, patience_s=30)

    assert printed == []
    assert shell_blocks(document)[0].reason == "it is long"
    assert not (tmp_path / "made").exists()


def test_what_runs_in_the_background_is_waited_for_and_stopped(tmp_path: Path) -> None:
    """The next block finds it ready; after the last nothing of it is left."""
    (tmp_path / "index.html").write_text("here")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    serve = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    document = (
        f"<!-- background: {url} -->\n"
        f"```sh\n{serve} & echo $! > pid; wait\n```\n"
        f"```sh\ncurl --silent {url}\n```\n"
    )
    printed = run_blocks(document, tmp_path, os.environ, patience_s=60)
    pid = int((tmp_path / "pid").read_text())

    assert printed[1] == "here"
    assert not Path(f"/proc/{pid}").exists()


def test_what_ends_before_it_is_ready_is_a_failure(tmp_path: Path) -> None:
    """What it printed is in the message."""
    document = (
        "<!-- background: http://127.0.0.1:9/ -->\n```sh\necho no port\nfalse\n```\n"
    )
    with pytest.raises(BlockFailedError, match="no port"):
        run_blocks(document, tmp_path, os.environ, patience_s=60)
