"""A process that publishes a log on PostgreSQL until it is ended, and says how far."""

import sys
from pathlib import Path

from audit.keys import load_keys
from audit.publisher import Pace, Publisher
from audit.sql import Postgres
from tests.audit.examples import open_room


def run(folder: Path, url: str, schema: str, silent_s: float) -> None:
    """Publish again and again, and print what each round came to."""
    room = open_room(folder, load_keys(folder / "keys"), place=Postgres(url, schema))
    pace = Pace(silent_s=silent_s)
    publisher = Publisher(room.log, room.keys.log, room.clock, pace)
    while True:
        publisher.tick()
        leads = publisher.is_leading
        sys.stdout.write(f"{leads} {publisher.published} {publisher.failure}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
