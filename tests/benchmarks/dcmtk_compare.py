"""One admitted file's first and last frame against DCMTK's: the values before any window, brought to 0..1.

Both sides show the lowest modality value black and the highest white (`dcmj2pnm +Wm`), so that windows, padding and
orientation, which viewers handle differently, stay out of it; colour is compared by its luminance.
"""

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from client.dicom import reader
from client.dicom.pixel_data import check_pixels, decoded_frames
from client.dicom.rendering import grey_plane, rendering_of

TOOLS = ("dcmj2pnm", "dcml2pnm")
"""DCMTK's renderers: of native, RLE and JPEG, and of JPEG-LS."""
NEAR = 0.02
"""Of the whole range: what lossy decoders of two makers differ by, and the 16 bits of the comparison."""

Picture = NDArray[np.float64]


def available() -> bool:
    """Return whether DCMTK is installed."""
    return shutil.which(TOOLS[0]) is not None


def difference(path: Path) -> float | None:
    """Return the largest mean difference of a frame from DCMTK's; 2 for another shape, None where DCMTK has none."""
    ours = _ours(path)
    found: list[float] = []
    for number in sorted({0, len(ours) - 1}):
        theirs = _theirs(path, number + 1)
        if theirs is None:
            continue
        same = theirs.shape == ours[number].shape
        found.append(float(np.abs(theirs - ours[number]).mean()) if same else 2.0)
    return max(found) if found else None


def _ours(path: Path) -> list[Picture]:
    mode = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = reader.parse_header(reader.read_file(path))
            facts = reader.facts_of(header)
            check_pixels(header, facts)
            frames = list(decoded_frames(header, facts))
            return [_unit(header.dataset, frame, number) for number, frame in enumerate(frames)]
    finally:
        pydicom.config.settings.reading_validation_mode = mode


def _unit(dataset: Any, frame: Any, number: int) -> Picture:
    plane, full_scale = grey_plane(frame, dataset)
    if full_scale is not None:
        return plane.astype(np.float64) / full_scale[1]
    rendering = rendering_of(dataset, number, photometric=frame.photometric, full_scale=None)
    values = plane.astype(np.float64)
    table = rendering.modality_lut
    values = table(values) if table is not None else values * rendering.slope + rendering.intercept
    unit = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    return 1 - unit if rendering.inverted else unit


def _theirs(path: Path, number: int) -> Picture | None:
    with tempfile.TemporaryDirectory(prefix="wardround-") as root:
        target = Path(root) / "a.pnm"
        for tool in TOOLS:
            command = [tool, "+F", str(number), "+Wm", "+opw", str(path), str(target)]
            subprocess.run(command, capture_output=True, timeout=60, check=False)
            if target.exists() and target.stat().st_size:
                return _read_pnm(target.read_bytes())
    return None


def _read_pnm(data: bytes) -> Picture | None:
    """Read P2 or P3 (text), P5 or P6 (binary)."""
    words: list[bytes] = []
    place = 0
    while len(words) < 4:
        end = data.index(b"\n", place)
        line = data[place:end].split(b"#")[0]
        words += line.split()
        place = end + 1
    kind, (columns, rows, top) = words[0], map(int, words[1:4])
    if kind in (b"P2", b"P3"):
        values = np.array(data[place:].split(), dtype=np.float64)
    else:
        values = np.frombuffer(data[place:], ">u2" if top > 255 else "u1").astype(np.float64)
    if kind in (b"P3", b"P6"):
        return values.reshape(rows, columns, 3) @ np.array([0.299, 0.587, 0.114]) / top
    return values.reshape(rows, columns) / top
