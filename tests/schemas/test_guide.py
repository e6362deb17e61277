"""The guide for writers of matters does what it says."""

import os
import re
import sys
from pathlib import Path

import pytest

from exchange.candidates import MAX_KEY_SETS
from exchange.catalogue import MAX_CHOICES
from schemas.errors import PackError
from schemas.expressions import UNKNOWN
from schemas.packfile import KINDS
from schemas.validation import load_pack
from tests.harness.ports import free_ports_in_a_row
from tests.harness.shell_blocks import run_blocks
from tests.schemas.packs import ROOT

GUIDE = (ROOT / "docs" / "writing-a-matter.md").read_text("utf-8")


def files_of(text: str) -> dict[str, str]:
    """Return the files that the guide shows, by name."""
    blocks: list[tuple[str, str]] = re.findall(
        r"```yaml\n# file: (\S+)\n(.*?)```", text, re.DOTALL
    )
    return dict(blocks)


def _files() -> dict[str, str]:
    return files_of(GUIDE)


def test_the_guides_example_is_a_whole_pack() -> None:
    """Its blocks, put into files, are loaded as they stand."""
    pack = load_pack(_files())

    assert ["travel_card@1"] == list(pack.matters)
    assert len(KINDS) == len(_files())


def test_the_guides_commitment_fits_its_requirement() -> None:
    """What is shown apart is taken where it belongs."""
    shown = re.search(r"```\n(    commitment:\n.*?)```", GUIDE, re.DOTALL)
    assert shown is not None
    files = _files()
    end = "    supply: [out_of_coverage, source_down, source_faulty]\n"
    (name,) = (name for name, text in files.items() if end in text)
    pack = load_pack(files | {name: files[name].replace(end, end + shown[1])})
    card = pack.matters["travel_card@1"].requirements["card"]

    assert card.commitment is not None
    assert "19" == card.commitment.basis.article


def test_the_guides_conditions_are_as_it_says() -> None:
    """Unknown is never false, and what is computed comes out."""
    program = load_pack(_files()).program
    local = program("travel_card@1", "holder.region.startsWith('9901')")

    assert local.evaluate({}) is UNKNOWN
    assert local.evaluate({"holder": {"region": "990102"}}) is True


def test_what_the_guide_tells_to_type_leads_to_a_resolved_case(tmp_path: Path) -> None:
    """Every file and every command, in one new folder; what it shows is what comes."""
    first = free_ports_in_a_row(3)
    text = GUIDE
    for place, port in enumerate((8800, 8101, 8102)):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{first + place}")
        text = text.replace(f"port: {port}", f"port: {first + place}")
    (tmp_path / "pack").mkdir()
    for name, content in files_of(text).items():
        (tmp_path / "pack" / name).write_text(content, encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    printed = run_blocks(text, tmp_path, environment, patience_s=300)

    assert "card consent_needed" in printed[-2]
    assert printed[-2] in GUIDE
    assert printed[-1].replace("card retrieved", "card reused") in GUIDE


def test_every_block_of_yaml_is_a_file_that_is_loaded() -> None:
    """No example escapes the test."""
    assert len(_files()) == GUIDE.count("```yaml")


def test_every_kind_of_file_is_in_the_guide() -> None:
    """With its name and its schema."""
    for kind in KINDS:
        assert f"| `{kind}` |" in GUIDE
        assert f"{kind.replace('_', '-')}.schema.json" in GUIDE


def test_the_guides_errors_are_the_real_ones() -> None:
    """The misspellings it shows give exactly those lines."""
    shown = re.findall(r"```text\n(travel-card.yaml.*?)```", GUIDE, re.DOTALL)[
        0
    ].splitlines()
    files = _files()
    files["travel-card.yaml"] = (
        files["travel-card.yaml"]
        .replace('criterion: "holder.birth_year', 'criterion: "holder.birth_yaer')
        .replace("declare: delivery", "declare: deliverey")
    )
    with pytest.raises(PackError) as caught:
        load_pack(files)

    assert shown == list(caught.value.places)


def test_the_guides_limits_are_the_planners() -> None:
    """A writer reads the numbers that the pack is held to."""
    assert f"at most {MAX_KEY_SETS} sets of keys" in GUIDE
    assert f"at most {MAX_CHOICES:,} for a matter" in GUIDE
