"""Output folders that are there whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import OutputInUse


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder next to `out` to fill; it becomes `out` when the block ends well, else it goes.

    Args:
        out: Folder to create; may exist if it is empty.

    Raises:
        OutputInUse: `out` is a file or holds something; nothing was written.
    """
    require_free(out)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_free(out: Path) -> None:
    """Raise `OutputInUse` unless `out` is absent or an empty folder: asked before the work that is to fill it."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise OutputInUse(f"{out} was asked for as output and already holds something. Name another folder.")
