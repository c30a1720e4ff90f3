"""Synthetic DICOM on disk, and what its private block says when it is read back as a recipient would."""

from pathlib import Path
from typing import Any

from pydicom import dcmread

from common.dicom.export import PRIVATE_CREATOR, PRIVATE_GROUP, Provenance, synthetic_bytes


def write_synthetic(path: Path, pixels: Any, **given: Any) -> None:
    """Write one synthetic image."""
    path.write_bytes(synthetic_bytes(pixels, **given))


def read_provenance(path: Path) -> Provenance:
    """Read where a synthetic image comes from; raises KeyError where a file has no block of ours."""
    block = dcmread(path, stop_before_pixels=True).private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    values = [block[offset].value for offset in range(6)]
    texts = [value.decode().rstrip("\0 ") if isinstance(value, bytes) else str(value) for value in values]
    study, plan_digest, decoder_digest, epsilon, delta, seed = texts
    return Provenance(
        study=study,
        plan_digest=plan_digest,
        decoder_digest=decoder_digest,
        epsilon=float(epsilon),
        delta=float(delta),
        seed=int(seed),
    )
