"""The authority's process: answers questions with `openssl ts`, or wrongly on purpose.

Run as `tsa_child.py FOLDER PORT`. The path says how it answers: `good` and `expired`
sign with that certificate; `replay` gives the first answer again and again; `other`
stamps something else; `garbage`, `large` and `refused` are no stamps at all.
"""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from typing_extensions import override


class Handler(BaseHTTPRequestHandler):
    """Answers one question."""

    folder: ClassVar[Path]
    first: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        """Tell that it is there."""
        self._send(200, b"")

    def do_POST(self) -> None:
        """Answer a question as the path says."""
        question = self.rfile.read(int(self.headers["content-length"]))
        manner = self.path.removeprefix("/")
        if manner == "refused":
            self._send(503, b"")
        elif manner == "garbage":
            self._send(200, b"no answer at all")
        elif manner == "large":
            self._send(200, bytes(100_000))
        elif manner == "replay":
            self.first.setdefault(manner, self._stamp(question, "good"))
            self._send(200, self.first[manner])
        elif manner == "other":
            self._send(200, self._stamp(self._question(b"something else"), "good"))
        else:
            self._send(200, self._stamp(question, manner))

    def _question(self, data: bytes) -> bytes:
        command = ["openssl", "ts", "-query", "-data", "/dev/stdin", "-sha256", "-cert"]
        return subprocess.run(
            command, input=data, capture_output=True, check=True
        ).stdout

    def _stamp(self, question: bytes, signer: str) -> bytes:
        asked = self.folder / f"{id(self)}.tsq"
        asked.write_bytes(question)
        config = str(self.folder / f"{signer}.conf")
        command = ["openssl", "ts", "-reply", "-queryfile", str(asked)]
        return subprocess.run(
            [*command, "-config", config, "-section", signer],
            capture_output=True,
            check=True,
        ).stdout

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/timestamp-reply")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Keep it to itself."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
