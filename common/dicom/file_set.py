"""A set of synthetic DICOM files as a disc holds one: names of eight signs, and a DICOMDIR that lists them.

Source:
    DICOM PS3.10 8 (File-set and File ID), PS3.3 F (Basic Directory IOD).
"""

import gc
import io
import warnings
from pathlib import Path

from pydicom import dcmread
from pydicom.fileset import FileSet

from common.dicom.iods import derive_uid

MOST_FILES = 2000
"""Files that a DICOMDIR takes here: pydicom looks through all of them for each, which is minutes for some thousands."""


class FileSetWriter:
    """Gathers files, then writes them with their DICOMDIR; the same files in the same order give the same bytes.

    Args:
        name: What the set's UID derives from.
    """

    def __init__(self, *name: str) -> None:
        self._files = FileSet()
        self._files.UID = derive_uid("synthetic file set", *name)
        self._files.ID = "WARDROUND"

    def add(self, content: bytes) -> str:
        """Take one DICOM file; returns its SOPInstanceUID."""
        dataset = dcmread(io.BytesIO(content))
        self._files.add(dataset)
        return str(dataset.SOPInstanceUID)

    def write(self, folder: Path) -> dict[str, Path]:
        """Write all files and the DICOMDIR below `folder`; returns where each SOPInstanceUID lies.

        The writer cannot be used afterwards.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # pydicom leaves its temporary folder to the collector
            self._files.write(folder)
            places = {str(file.SOPInstanceUID): Path(file.path) for file in self._files}
            del self._files
            gc.collect()
        return places
