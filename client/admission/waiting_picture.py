"""The picture of a file that waits for a human, as PNG: decoded anew, as an ingest keeps no pixels of it."""

import io
import tempfile
from pathlib import Path

import torch
from PIL import Image

from client.admission.records import FileRecord, admissions
from client.admission.scan import Job
from client.admission.settings import IngestSettings
from client.decoder.pool import DecodePool, Picture
from common.errors import DataError
from common.host.files import PRIVATE, write_atomically
from common.images.pixels import unit_to_uint8


def picture_of(home: Path, record: FileRecord, target: Path) -> None:
    """Write the first picture of a waiting file as PNG, for a human to look at.

    Args:
        home: The site's home folder.
        record: Record of the waiting file.
        target: The PNG file to write.

    Raises:
        DataError: The file has changed, is gone, or holds no picture.
    """
    of_it = (a for a in admissions(home) if any(r.decided_by == record.decided_by for r in a.records))
    admission = next(of_it, None)
    if admission is None:
        raise DataError(f"{home} has no record of an ingest. Run `wardround site ingest`")
    pictures: list[Picture] = []

    def keep(_number: int, picture: Picture, _aspect: float) -> None:
        if not pictures:
            pictures.append(picture.copy())

    job = Job(number=0, path=Path(admission.folder) / record.name, cleared=record.decided_by)
    with (
        tempfile.TemporaryDirectory(prefix="wardround-") as scratch,
        DecodePool(IngestSettings(image_size=64), scratch=Path(scratch), workers=1) as pool,
    ):
        reasons = [outcome.reason for _, outcome in pool.run([job], keep)]
    if not pictures:
        raise DataError(f"the file cannot be shown ({reasons[0]}). Has it changed since the last ingest?")
    content = io.BytesIO()
    Image.fromarray(unit_to_uint8(torch.from_numpy(pictures[0]))).save(content, format="PNG")
    write_atomically(target, content.getvalue(), mode=PRIVATE)
