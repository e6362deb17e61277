"""The packs that are shipped are plain YAML, whichever parser reads them."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKS = sorted([*ROOT.glob("schemas/packs/**/*.yaml"), *ROOT.glob("bench/pack/*.yaml")])


@pytest.mark.parametrize("file", PACKS, ids=lambda file: "-".join(file.parts[-2:]))
def test_a_shipped_pack_is_read_alike_by_both_parsers(file: Path) -> None:
    """PyYAML's own parser is stricter than the one in C, and not always there."""
    text = file.read_text(encoding="utf-8")

    plain = yaml.load(text, Loader=yaml.SafeLoader)
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    assert yaml.load(text, Loader=fast) == plain  # noqa: S506 - a safe one, in C
