"""Mutates real DICOM files and admits them: nothing may crash the daemon, hang, or grow beyond the cap.

    python -m tests.benchmarks.fuzz_ingest [--files 10000] [--seed 0] [--extra FOLDER] [--keep FOLDER] [--dcmtk]

Sources are the test files of pydicom and pydicom-data, the latter where installed (those with pixels thrice more, with
secondary captures passed off as images so that decoders see them), files written here in several transfer
syntaxes, and whatever lies in `--extra`. Each mutant is one source changed in one of the ways below. Mutants are
ingested in batches with two good files; every file must end in exactly one of admitted, refused and quarantined, and
the good ones must be admitted every time.

With `--dcmtk`, each admitted file is decoded by DCMTK as well (Debian's dcmtk). Every picture that differs is listed
with its mutation, and kept in `--keep`.
"""

import argparse
import importlib.util
import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from client.admission.ingest import IngestSettings, Limits, ingest
from client.cohort.cache import Cache
from tests.benchmarks import dcmtk_compare
from tests.client.scans import picture, save, scan

BATCH = 500
LARGEST_SOURCE = 700_000
LIMITS = Limits(seconds=20.0, memory_bytes=2 << 30)
SETTINGS = IngestSettings(image_size=64)
JPEGS = (b"50", b"51", b"57", b"70", b"80", b"81", b"90", b"91")
VRS = (b"SQ", b"OB", b"OW", b"UN", b"US", b"DS", b"IS", b"CS", b"PN", b"UI", b"LO", b"AT", b"ZZ", b"\x00\x00")
NUMBERS = {
    b"\x28\x00\x10\x00": "rows", b"\x28\x00\x11\x00": "columns", b"\x28\x00\x02\x00": "samples",
    b"\x28\x00\x00\x01": "bits allocated", b"\x28\x00\x01\x01": "bits stored", b"\x28\x00\x03\x01": "sign",
}  # fmt: skip
PIXELS = b"\xe0\x7f\x10\x00"
CAPTURE, IMAGE = b"1.2.840.10008.5.1.4.1.1.7\x00", b"1.2.840.10008.5.1.4.1.1.5\x00"
CONVERTED, PLAIN = (b"\x08\x00d\x00CS\x04\x00SYN ", b"\x08\x00d\x00CS\x04\x00WSD "), b"\x08\x00d\x00CS\x04\x00    "
Mutation = Callable[[bytearray, random.Random], None]


def bit_flips(data: bytearray, dice: random.Random) -> None:
    """Flip some bits anywhere."""
    for _ in range(dice.choice((1, 2, 8, 64))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def header_flips(data: bytearray, dice: random.Random) -> None:
    """Flip some bits where the header is."""
    for _ in range(dice.choice((1, 2, 8))):
        data[dice.randrange(min(len(data), 3000))] ^= 1 << dice.randrange(8)


def truncation(data: bytearray, dice: random.Random) -> None:
    """Cut the end off."""
    del data[dice.randrange(len(data)) :]


def garbage_run(data: bytearray, dice: random.Random) -> None:
    """Overwrite a stretch with one byte, or with noise."""
    start, length = dice.randrange(len(data)), dice.choice((4, 16, 256, 4096))
    end = min(len(data), start + length)
    data[start:end] = dice.choice((bytes(end - start), b"\xff" * (end - start), dice.randbytes(end - start)))


def deletion(data: bytearray, dice: random.Random) -> None:
    """Take a stretch out, so that everything after it moves."""
    start = dice.randrange(len(data))
    del data[start : start + dice.choice((1, 2, 7, 100))]


def insertion(data: bytearray, dice: random.Random) -> None:
    """Put a stretch of the file in a second time."""
    start, place = dice.randrange(len(data)), dice.randrange(len(data))
    data[place:place] = data[start : start + dice.choice((1, 8, 100, 2000))]


def length_lie(data: bytearray, dice: random.Random) -> None:
    """Give an element another length."""
    place = element(data, dice)
    if dice.random() < 0.5:
        data[place + 6 : place + 8] = struct.pack("<H", dice.choice((0, 1, 3, 255, 65535)))
    else:
        data[place + 4 : place + 8] = struct.pack("<I", dice.choice((0, 1, 1 << 16, 1 << 30, 0xFFFFFFFE, 0xFFFFFFFF)))


def vr_lie(data: bytearray, dice: random.Random) -> None:
    """Give an element another value representation."""
    place = element(data, dice)
    data[place + 4 : place + 6] = dice.choice(VRS)


def element(data: bytearray, dice: random.Random) -> int:
    """A place where an element of a common group seems to begin; anywhere where none does."""
    for _ in range(50):
        place = data.find(dice.choice((b"\x08\x00", b"\x10\x00", b"\x20\x00", b"\x28\x00", b"\xe0\x7f")),
                          dice.randrange(max(1, min(len(data), 4000))))  # fmt: skip
        if 0 <= place < len(data) - 12:
            return place
    return dice.randrange(max(1, len(data) - 12))


def huge_numbers(data: bytearray, dice: random.Random) -> None:
    """Lie about rows, columns, samples or bits."""
    for tag in dice.sample(sorted(NUMBERS), dice.randint(1, 3)):
        place = data.find(tag)
        if 0 <= place < len(data) - 10:
            data[place + 8 : place + 10] = struct.pack("<H", dice.choice((0, 1, 2, 7, 64, 4096, 32768, 65535)))


def huge_frames(data: bytearray, dice: random.Random) -> None:
    """Claim many frames, in the place of SamplesPerPixel's neighbour or before it."""
    place = data.find(b"\x28\x00\x02\x00US")
    text = dice.choice((b"0 ", b"-1", b"2147483647", b"99", b"10000 ", b"1e9 ", b"7 "))
    if place >= 0:
        data[place:place] = b"\x28\x00\x08\x00IS" + struct.pack("<H", len(text)) + text


def nesting(data: bytearray, dice: random.Random) -> None:
    """Put deeply nested sequences in, defined or undefined in length, closed or not."""
    depth = dice.choice((2, 30, 100, 1000, 5000))
    open_, item = b"\x00\x52\x29\x92SQ\x00\x00\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    close = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00" + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    body = (open_ + item) * depth + (close * depth if dice.random() < 0.5 else b"")
    place = data.find(PIXELS)
    data[max(place, 0) : max(place, 0)] = body


def bad_stream(data: bytearray, dice: random.Random) -> None:
    """Damage the pixel data and its fragments."""
    place = data.find(PIXELS)
    start = place if place >= 0 else 0
    for _ in range(dice.choice((1, 4, 32, 200))):
        data[dice.randrange(start, len(data))] = dice.randrange(256)


def other_syntax(data: bytearray, dice: random.Random) -> None:
    """Name another transfer syntax of the same length."""
    for old in (b"1.2.840.10008.1.2.4.", b"1.2.840.10008.1.2.1\x00"):
        place = data.find(old)
        if place >= 0 and old.endswith(b"."):
            data[place + len(old) : place + len(old) + 2] = dice.choice(JPEGS)
            return
        if place >= 0:
            data[place : place + 20] = dice.choice((b"1.2.840.10008.1.2.2\x00", b"1.2.840.10008.1.2.5\x00"))
            return


MUTATIONS: tuple[Mutation, ...] = (
    bit_flips, header_flips, truncation, garbage_run, deletion, insertion, length_lie, vr_lie, huge_numbers,
    huge_frames, nesting, bad_stream, other_syntax,
)  # fmt: skip


def sources(extra: Path | None) -> list[bytes]:
    """Real files to mutate."""
    folders = [extra] if extra else []
    for package, inside in (("pydicom", "data/test_files"), ("data_store", "data")):
        found = importlib.util.find_spec(package)
        if found is not None:
            folders.extend(Path(place) / inside for place in found.submodule_search_locations or ())
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    real = [path.read_bytes() for path in files if 200 < path.stat().st_size <= LARGEST_SOURCE]
    pictures = [data for data in real if PIXELS in data]
    # captures are refused by type before any decoder sees them; as retired nuclear medicine of any colour they are not
    for data in pictures * 3:
        for mark in CONVERTED:
            data = data.replace(mark, PLAIN)
        real.append(data.replace(CAPTURE, IMAGE))
    with tempfile.TemporaryDirectory() as root:
        for number, syntax in enumerate((None, RLELossless, JPEG2000Lossless, JPEGLSLossless) * 12):
            dataset = scan(picture(number, rows=96, columns=96), seed=number, patient=f"F{number}")
            if syntax is not None:
                plugin = "pyjpegls" if syntax == JPEGLSLossless else "pylibjpeg"
                dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
            real.append(save(dataset, Path(root) / "a.dcm").read_bytes())
    return real


class Watch:
    """Samples memory and the time between files."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.slowest = 0.0
        self.decoder_mib = 0

    def __call__(self, done: int, total: int) -> None:
        """Note the progress of one file."""
        now = time.monotonic()
        self.slowest = max(self.slowest, now - self.last)
        self.last = now
        if done % 20 == 0 or done == total:
            for child in psutil.Process().children():
                try:
                    status = Path(f"/proc/{child.pid}/status").read_text()
                except OSError:
                    continue
                peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
                self.decoder_mib = max([self.decoder_mib, *(int(value) // 1024 for value in peak)])


def compare(folder: Path, names: dict[str, str], refused: dict[str, str], differ: list[str], keep: Path | None) -> int:
    """Compare the admitted files of a batch with DCMTK; returns how many it has a picture of."""
    compared = 0
    for name in sorted(set(names) - set(refused)):
        error = dcmtk_compare.difference(folder / name)
        compared += error is not None
        if error is not None and error > dcmtk_compare.NEAR:
            differ.append(f"{names[name]}: {error:.3f}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, keep / f"differs-{len(differ)}-{names[name]}")
    return compared


def run(files: int, seed: int, extra: Path | None, keep: Path | None, *, dcmtk: bool = False) -> dict[str, object]:
    """Mutate and ingest; returns the account."""
    dice = random.Random(seed)
    real, watch = sources(extra), Watch()
    reasons: Counter[str] = Counter()
    mutated: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    differ: list[str] = []
    began = time.monotonic()
    while totals["files"] < files:
        with tempfile.TemporaryDirectory(prefix="wardround-fuzz-") as root:
            folder, names = Path(root) / "in", {}
            for good in ("good1", "good2"):
                save(scan(seed=len(good) + ord(good[-1]), patient=good), folder / f"{good}.dcm")
            for number in range(min(BATCH, files - totals["files"])):
                data, mutation = bytearray(dice.choice(real)), dice.choice(MUTATIONS)
                mutation(data, dice)
                names[f"{number:04d}"] = mutation.__name__
                (folder / f"{number:04d}").write_bytes(data)
            watch.last = time.monotonic()
            summary = ingest(folder, Path(root) / "home", SETTINGS, limits=LIMITS, progress=watch, ocr=False)
            assert summary.files == len(names) + 2 == summary.admitted + summary.refused + summary.quarantined
            refused = dict(summary.refusals)
            assert len(refused) == summary.refused + summary.quarantined
            assert not {"good1.dcm", "good2.dcm"} & set(refused)
            assert Cache.open(Path(root) / "home").images >= summary.admitted
            mutated.update(names.values())
            reasons.update(summary.reasons)
            totals.update(files=len(names), admitted=summary.admitted - 2)
            totals.update(refused=summary.refused, quarantined=summary.quarantined)
            if dcmtk:
                totals.update(compared_with_dcmtk=compare(folder, names, refused, differ, keep))
            for name, reason in refused.items():
                if keep is not None and reason in ("crashed", "timed_out"):
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / name, keep / f"{reason}-{seed}-{totals['files']}-{name}")
    return {
        **totals,
        "decoder_processes_lost": reasons["crashed"] + reasons["timed_out"],
        "daemon_crashes": 0,
        **({"differ_from_dcmtk": differ} if dcmtk else {}),
        "reasons": dict(reasons.most_common()),
        "mutations": dict(mutated),
        "sources": len(real),
        "longest_pause_s": round(watch.slowest, 2),
        "limit_s": LIMITS.seconds,
        "decoder_peak_mib": watch.decoder_mib,
        "decoder_cap_mib": LIMITS.memory_bytes >> 20,
        "daemon_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "files_per_s": round(files / (time.monotonic() - began)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extra", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--dcmtk", action="store_true")
    options = parser.parse_args()
    if options.dcmtk and not dcmtk_compare.available():
        parser.error("--dcmtk needs Debian's dcmtk")
    account = run(options.files, options.seed, options.extra, options.keep, dcmtk=options.dcmtk)
    sys.stdout.write(json.dumps(account, indent=2) + "\n")
