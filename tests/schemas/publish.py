"""Write the published JSON Schemas anew: `python -m tests.schemas.publish`."""

from pathlib import Path

import orjson

from schemas.packfile import KINDS, json_schema

FOLDER = Path(__file__).parents[2] / "schemas" / "json"


def published() -> dict[Path, bytes]:
    """Return the content of each published schema, by its path."""
    return {
        FOLDER / f"{kind.replace('_', '-')}.schema.json": orjson.dumps(
            json_schema(kind), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        )
        for kind in KINDS
    }


if __name__ == "__main__":
    for path, content in published().items():
        path.write_bytes(content)
