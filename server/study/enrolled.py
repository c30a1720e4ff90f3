"""Which sites were enrolled when a study began: one that never connects is missing like any other, and said to be."""

import json
from collections.abc import Iterable
from pathlib import Path

from common.errors import StateError
from common.host.files import write_atomically

FILE = "enrolled.json"
"""In a study's folder at a coordinator: the names of its sites. A simulation has none, all of its sites are there."""


def save(folder: Path, sites: Iterable[str]) -> None:
    """Write the names into `folder`, whole or not at all."""
    write_atomically(folder / FILE, json.dumps(sorted(sites)).encode())


def load(folder: Path) -> frozenset[str]:
    """The sites that were enrolled when the study in `folder` was last started; none where nothing was written.

    Raises:
        StateError: The file is there and cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return frozenset()
    try:
        return frozenset(str(site) for site in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"{path} cannot be read ({type(error).__name__}). Start the study again") from error
