"""The hammer, for a few seconds: writers are killed, and every promise is kept."""

import subprocess
import sys
from pathlib import Path

import orjson


def test_writers_that_are_killed_keep_every_promise(tmp_path: Path) -> None:
    """Every receipt proves, no event stands twice, and readers see one history."""
    file = tmp_path / "hammer.json"
    command = (sys.executable, "-m", "bench.hammer", "--quick", "--json", str(file))
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)

    assert 0 == done.returncode, done.stderr[-2000:]
    told = orjson.loads(file.read_bytes())
    assert told["kills"] >= 3
    assert told["records"] >= told["receipts"] > 0
    assert [] == told["wrong"]
    assert b"all kept" in done.stdout
