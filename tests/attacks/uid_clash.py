"""A patient's files bear the SOP instance UIDs of other patients' images, or their very pictures: whom does it remove?

    python -m tests.attacks.uid_clash

Attackers are ingested together with a hospital's patients: one whose key is the smallest of many, one whose key is the
largest, and both at once. First they bear the others' UIDs with other pixels, then the others' pictures under UIDs of
their own. What every other patient contributes must be to the byte what it was without the attacker, and the attacker's
files must be shown to a human.

Prints what was left of the others; exit code 1 if anybody's contribution changed, or nobody was told.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.admission.ingest import IngestSettings, ingest
from client.admission.quarantine import waiting
from client.cohort.cache import Cache
from client.cohort.identity import patient_key
from tests.client.scans import save, scan

PATIENTS, IDS = 12, 200
TAKEN = ("UIDs", "pictures")
SECRET = bytes(range(32))
SETTINGS = IngestSettings(image_size=28)


def main() -> int:
    """Play every attacker and say what came of it."""
    names = sorted((f"Z{i}" for i in range(IDS)), key=lambda name: patient_key(SECRET, name))
    attackers = {"the smallest key of 200": [names[0]], "the largest key of 200": [names[-1]],
                 "two attackers at once": [names[0], names[-1]]}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        alone = cohort(Path(folder) / "alone", [], takes="")[0]
        worked = sum(
            changes(f"{what}, with the others' {takes}", alone, Path(folder) / f"{what} {takes}", ids, takes=takes)
            for takes in TAKEN
            for what, ids in attackers.items()
        )
    print(f"\n{worked} of {len(attackers) * len(TAKEN)} attackers changed what others contribute, or went unnoticed")
    return 1 if worked else 0


def changes(what: str, alone: dict[str, NDArray[np.uint16]], place: Path, ids: list[str], *, takes: str) -> bool:
    """Whether the attackers of these ids change anybody else's images, or are shown to nobody."""
    found, shown = cohort(place, ids, takes=takes)
    same = sum(key in found and np.array_equal(found[key], images) for key, images in alone.items())
    print(f"{what}: {same} of {PATIENTS} other patients contribute as before; {shown} files are shown to a human")
    works = same < PATIENTS or not shown
    print(f"  -> {'THE ATTACK WORKS' if works else 'nobody else is changed, and a human is told'}")
    return works


def cohort(place: Path, attackers: list[str], *, takes: str) -> tuple[dict[str, NDArray[np.uint16]], int]:
    """Ingest the patients and the attackers; return stored images by patient, and how many files wait for a human."""
    for number in range(PATIENTS):
        save(scan(seed=number + 1, patient=f"P{number}"), place / "in" / f"p{number}.dcm")
        for attacker in attackers:
            picture, uid = own_seed(attacker, number), scan(seed=number + 1).SOPInstanceUID
            if takes == "pictures":
                picture, uid = number + 1, scan(seed=picture).SOPInstanceUID
            save(scan(seed=picture, patient=attacker, SOPInstanceUID=uid), place / "in" / f"{attacker}-{number}.dcm")
    home = place / "home"
    home.mkdir()
    (home / "secret.key").write_bytes(SECRET)
    ingest(place / "in", home, SETTINGS, workers=1, ocr=False)
    cache = Cache.open(home)
    rows = {key: cache.patient_rows(i) for i, key in enumerate(cache.patient_keys)}
    return {key: np.array(cache.stored(own.start, own.stop)) for key, own in rows.items()}, len(waiting(home))


def own_seed(attacker: str, number: int) -> int:
    """Seed of a picture of which no two are alike."""
    return 100_000 + int(attacker[1:]) * PATIENTS + number


if __name__ == "__main__":
    sys.exit(main())
