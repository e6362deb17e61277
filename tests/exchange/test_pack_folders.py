"""Pack folders: which of their files are read, and what must not be left out."""

from pathlib import Path

import pytest

from exchange.office import read_pack
from schemas.errors import PackError, SettingsError
from tests.schemas.packs import SMALL


def a_folder(folder: Path, suffix: str = ".yaml", but: str = "") -> Path:
    """Write the small pack to a folder, `but` one of its files."""
    folder.mkdir(parents=True)
    for name, text in SMALL.items():
        if name != but:
            folder.joinpath(name).with_suffix(suffix).write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".YML"])
def test_a_file_is_read_under_each_name_that_yaml_has(
    tmp_path: Path, suffix: str
) -> None:
    """A matter named `card.yml` is a matter like any other."""
    pack = read_pack((a_folder(tmp_path / "pack", suffix),))

    assert ["card@1"] == list(pack.matters)


def test_a_folder_within_that_would_be_left_out_is_refused(tmp_path: Path) -> None:
    """Whoever files matters by folder learns that they are not read."""
    pack = a_folder(tmp_path / "pack", but="card.yaml")
    inner = pack / "cards"
    inner.mkdir()
    inner.joinpath("card.yml").write_text(SMALL["card.yaml"], "utf-8")
    with pytest.raises(PackError) as caught:
        read_pack((pack,))

    (place,) = caught.value.places
    assert place.startswith(f"{inner / 'card.yml'}:1: : is not read")
    assert ["card@1"] == list(read_pack((pack, inner)).matters)


def test_other_folders_within_a_pack_are_nobodys_matter(tmp_path: Path) -> None:
    """Those without YAML, and those of tools, are passed over."""
    pack = a_folder(tmp_path / "pack")
    a_folder(pack / ".github")
    pack.joinpath("notes").mkdir()
    pack.joinpath("notes", "read.me").write_text("kind: matter")

    assert ["card@1"] == list(read_pack((pack,)).matters)


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("", "holds no file that ends in `.yaml` or `.yml`"),
        ("notes.yaml/", "holds no file that ends in `.yaml` or `.yml`"),
        ("card.txt", "is a file: name the folder that it is in"),
        ("cards", "there is no pack folder"),
        ("card.txt/cards", "is a file: name the folder that it is in"),
    ],
)
def test_what_holds_no_pack_is_refused(tmp_path: Path, name: str, because: str) -> None:
    """A slip in a path must not pass for a pack that is right and declares nothing."""
    whole, here = a_folder(tmp_path / "whole"), tmp_path / "here"
    here.joinpath("notes.yaml").mkdir(parents=True)
    here.joinpath("card.txt").write_text(SMALL["card.yaml"], "utf-8")
    with pytest.raises(SettingsError) as caught:
        read_pack((whole, here / name))

    assert because in str(caught.value)
    assert f"`{here / name}`" in str(caught.value)
