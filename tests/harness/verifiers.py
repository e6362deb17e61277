"""Verifiers that others wrote, to hold our log against: Go's own packages, and Node."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_GO_SOURCE = ROOT / "tests" / "audit" / "verifiers" / "tlog.go"
_GOPATH = Path("/usr/share/gocode")
"""Where Debian puts the sources of Go packages."""


def build_go_verifier(folder: Path) -> Path:
    """Compile the verifier over golang.org/x/mod; skip where Go or it is missing."""
    packages = _GOPATH / "src" / "golang.org" / "x" / "mod" / "sumdb" / "tlog"
    if shutil.which("go") is None or not packages.is_dir():
        pytest.skip("needs Debian's golang-go and golang-golang-x-mod-dev")
    program = folder / "tlog"
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(_GOPATH),
        "GOCACHE": str(folder / "go-cache"),
    }
    command = ["go", "build", "-o", str(program), str(_GO_SOURCE)]
    subprocess.run(command, env=environment, check=True, timeout=120)
    return program


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a verifier to its end."""
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120
    )


def node_verifier() -> tuple[str, Path]:
    """Return the command of the verifier that we ship for Node; skip without Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node 18 or newer")
    return node, ROOT / "docs" / "verify.mjs"
