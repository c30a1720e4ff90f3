"""Files of an import source by name, whether they lie in a folder, a .zip, or .zip files in a folder."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from common.errors import SourceError

MAX_ENTRY_BYTES = 1 << 29
"""A single file above this is no image; a zip entry that claims more is refused unread."""

Files = Mapping[str, Callable[[], bytes]]
"""Reader of each file's bytes by its name: a relative path with forward slashes, in order."""


@contextmanager
def open_files(source: Path) -> Iterator[Files]:
    """Open a folder or a .zip; a .zip in the folder is looked into, its name standing for a folder.

    Nothing is unpacked: an entry's name is a key, never a path that is written.

    Args:
        source: Folder or .zip.

    Raises:
        SourceError: `source` is neither, or a zip is broken, encrypted, or has a name that leaves its folder.
    """
    with ExitStack() as stack:
        found: dict[str, Callable[[], bytes]] = {}
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                name = path.relative_to(source)
                if path.is_symlink() or not path.is_file() or _hidden(name.parts):
                    continue
                if path.suffix.lower() == ".zip":
                    found.update(_zip_entries(path, stack, prefix=f"{name.with_suffix('').as_posix()}/"))
                else:
                    found[name.as_posix()] = path.read_bytes
        elif source.is_file() and zipfile.is_zipfile(source):
            found.update(_zip_entries(source, stack, prefix=""))
        else:
            raise SourceError(f"{source} was asked for as source, but is neither a folder nor a .zip file.")
        yield dict(sorted(found.items()))


def _zip_entries(path: Path, stack: ExitStack, *, prefix: str) -> Files:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path} cannot be read as .zip ({type(error).__name__}). Fetch it again.") from error
    entries = [info for info in archive.infolist() if not info.is_dir()]
    for info in entries:
        _check_entry(info, path)
    return {
        prefix + info.filename: partial(_read_entry, archive, info)
        for info in entries
        if not _hidden(PurePosixPath(info.filename).parts)
    }


def _check_entry(info: zipfile.ZipInfo, path: Path) -> None:
    name = PurePosixPath(info.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in info.filename:
        raise SourceError(f"{path} holds an entry whose name leaves its folder. Do not trust this file.")
    if info.flag_bits & 1:
        raise SourceError(f"{path} holds encrypted entries. Give an archive without a password.")
    if info.file_size > MAX_ENTRY_BYTES:
        raise SourceError(
            f"{path} holds an entry of {info.file_size} bytes, above the limit of {MAX_ENTRY_BYTES}. Leave it out."
        )


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read one entry; a broken one is an `OSError`, as a broken file on disk would be."""
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise OSError(f"zip entry cannot be read ({type(error).__name__})") from error


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
