"""Folders and .zip files look alike to an import, and nothing in a .zip can reach outside."""

import os
import zipfile
from pathlib import Path

import pytest

from common.errors import SourceError
from deploy.data import archives
from deploy.data.archives import open_files


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def contents(source: Path) -> dict[str, bytes]:
    with open_files(source) as files:
        return {name: read() for name, read in files.items()}


def test_a_zip_and_the_same_files_in_a_folder_read_alike(tmp_path: Path) -> None:
    entries = {"b/2.png": b"two", "a/1.png": b"one", "__MACOSX/a/1.png": b"junk", ".hidden": b"junk"}
    for name, data in entries.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    expected = {"a/1.png": b"one", "b/2.png": b"two"}
    assert contents(tmp_path / "folder") == contents(make_zip(tmp_path / "x.zip", entries)) == expected
    assert list(contents(tmp_path / "folder")) == sorted(expected)


def test_a_zip_in_a_folder_stands_for_a_folder_of_its_name(tmp_path: Path) -> None:
    make_zip(tmp_path / "first.zip", {"1.png": b"one"})
    make_zip(tmp_path / "second.zip", {"1.png": b"two"})
    assert contents(tmp_path) == {"first/1.png": b"one", "second/1.png": b"two"}


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "a\\..\\evil.png", "C:/evil.png"])
def test_an_entry_that_leaves_its_folder_refuses_the_whole_zip(tmp_path: Path, name: str) -> None:
    make_zip(tmp_path / "x.zip", {"good.png": b"good", name: b"evil"})
    with pytest.raises(SourceError, match="leaves its folder"):
        contents(tmp_path / "x.zip")


def test_an_entry_that_claims_to_be_huge_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRY_BYTES", 9)
    make_zip(tmp_path / "x.zip", {"a.png": b"0123456789"})
    with pytest.raises(SourceError, match="10 bytes"):
        contents(tmp_path / "x.zip")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.png": b"data"})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="encrypted"):
        contents(path)


def test_a_broken_zip_in_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK no zip")
    with pytest.raises(SourceError, match=r"cannot be read as \.zip"):
        contents(tmp_path)


def test_a_damaged_entry_is_an_error_of_that_entry_alone(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.png": b"AAAA", "b.png": b"BBBB"})
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"AAAX"))
    with open_files(path) as files:
        with pytest.raises(OSError, match="BadZipFile"):
            files["a.png"]()
        assert files["b.png"]() == b"BBBB"


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"secret")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "outside.png", tmp_path / "in" / "link.png")  # noqa: PTH211
    assert contents(tmp_path / "in") == {}


@pytest.mark.parametrize("name", ["absent", "plain.txt"])
def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain.txt").write_text("text")
    with pytest.raises(SourceError, match="neither a folder nor"):
        contents(tmp_path / name)
