"""How fast and how big ingest is, next to a plain pydicom loop and to MONAI, on at least 2,000 files in one run.

    python -m tests.benchmarks.ingest DATA [--mix scans|small] [--files 2000] [--repeats 3] [--size 64] [--workers 2]

DATA is a folder with `dicom_lungct`, `dicom_t1w`, `cxr_hannover` and `mednist64`, as their zips lie there. The mix
`scans` is every slice of the CT and MR series as it is and seven times moved by some rows (two of them as JPEG-LS);
`small` is every slice once, the Hannover radiographs, and MedNIST pictures of 64 x 64, all as DICOM. The three
contestants take turns over the same folder, warm; seconds are medians over the turns.

    plain   dcmread, pixel_array, rescale, 1st to 99th percentile, fit_square, 16 bits: one process, no checks
    monai   LoadImage with PydicomReader, then Resize: one process, no checks, no window
    ours    `client.admission.ingest.ingest` with everything it does, processes started and cache written
"""

import argparse
import functools
import io
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pydicom
import torch
from monai.data import PydicomReader
from monai.transforms import LoadImage, Resize
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, JPEGLSLossless

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from common.images.pixels import fit_square, unit_to_uint16
from tests.client.scans import save, scan
from tests.client.windows import window_to_unit

SERIES = ("dicom_lungct", "dicom_t1w")
COPIES = 8
PICTURES = ("cxr_hannover/png_256.zip", "mednist64/CXR.zip", "mednist64/Hand.zip", "mednist64/AbdomenCT.zip")


def members(archive: Path, *ends: str) -> Iterator[bytes]:
    """The files of a zip, in order of their names."""
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            if name.lower().endswith(ends) and not name.endswith("/"):
                yield opened.read(name)


def make_files(data: Path, folder: Path, mix: str, count: int) -> dict[str, int]:
    """Fill a folder with at least `count` DICOM files; returns how many of each kind."""
    kinds: dict[str, int] = {}

    def put(kind: str, write: Callable[[Path], object]) -> None:
        write(folder / f"{sum(kinds.values()):05d}.dcm")
        kinds[kind] = kinds.get(kind, 0) + 1

    for series in SERIES:
        for archive in sorted((data / series).glob("*.zip")):
            for raw in members(archive, ""):
                if raw[128:132] == b"DICM":
                    put(series, functools.partial(Path.write_bytes, data=raw))
                    for turn in range(1, COPIES if mix == "scans" else 1):
                        put(f"{series}, again", functools.partial(shifted, raw, turn))
    names = () if mix == "scans" else PICTURES
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        share = -(-max(0, count - sum(kinds.values())) // left)
        for place, raw in enumerate(itertools.islice(members(data / name, ".png", ".jpeg", ".jpg"), share)):
            pixels = np.asarray(Image.open(io.BytesIO(raw)).convert("L"))
            dataset = scan(pixels, seed=sum(kinds.values()), patient=f"{name}{place // 2}", Modality="CR",
                           SOPClassUID=ComputedRadiographyImageStorage, BurnedInAnnotation="NO")  # fmt: skip
            put(name, functools.partial(save, dataset))
    return kinds


def shifted(raw: bytes, turn: int, path: Path) -> None:
    """Write a slice moved by some rows, under a UID of its own; every third copy compressed by JPEG-LS."""
    dataset = pydicom.dcmread(io.BytesIO(raw))
    dataset.PixelData = np.roll(dataset.pixel_array, turn, axis=0).tobytes()
    dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.{turn}"[-64:].strip(".")
    if turn % 3 == 0:
        dataset.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
    dataset.save_as(path)


def plain(folder: Path, size: int) -> int:
    """One process, pydicom, the pixel work and nothing else."""
    done = 0
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        values = pydicom.pixels.apply_rescale(dataset.pixel_array, dataset).astype(np.float32)
        low, high = np.percentile(values, (1, 99), method="inverted_cdf")
        if high > low:
            unit = window_to_unit(torch.from_numpy(values), centre=float(low + high) / 2, width=float(high - low))
            unit_to_uint16(fit_square(unit, size=size))
            done += 1
    return done


def monai(folder: Path, size: int) -> int:
    """One process, MONAI's loader and its resize."""
    load = LoadImage(reader=PydicomReader(), image_only=True, ensure_channel_first=True)
    resize = Resize(spatial_size=(size, size, -1))
    for path in sorted(folder.iterdir()):
        image = load(path)
        resize(image if image.ndim == 4 else image[..., None])
    return len(list(folder.iterdir()))


def ours(folder: Path, size: int, workers: int) -> int:
    """Everything, from an empty home."""
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as home:
        settings = IngestSettings(image_size=size, window="percentile")
        return ingest(folder, Path(home), settings, workers=workers, ocr=False).admitted


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cores_free() -> float:
    """Cores that nobody used over half a second, before a turn begins."""
    return round(psutil.cpu_count() * (1 - psutil.cpu_percent(0.5) / 100), 2)


def peak(folder: Path, count: int, size: int, workers: int) -> dict[str, int]:
    """Peak resident MiB of the daemon and of its biggest decoder over the first `count` files, in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as root:
        some = Path(root) / "in"
        some.mkdir()
        for path in sorted(folder.iterdir())[:: max(1, len(list(folder.iterdir())) // count)][:count]:
            os.link(path, some / path.name)
        command = [sys.executable, "-m", "tests.benchmarks.ingest", "--peak-of", str(some), "--size", str(size),
                   "--workers", str(workers)]  # fmt: skip
        answer: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return answer


def own_peak(folder: Path, size: int, workers: int) -> dict[str, int]:
    """What `peak` runs in the fresh process; shared pages of the decoders' picture slots count in both."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    ours(folder, size, workers)
    return {
        "before": before,
        "daemon": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "decoder": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }


def access(home: Path) -> float:
    """Patients' images a second out of the cache, in batches of 64 patients, at most 2 images each."""
    cache = Cache.open(home)
    generator = torch.Generator().manual_seed(0)
    images, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < 3:
        batch = torch.randint(cache.patients, (64,), generator=generator)
        images += float(cache.patients_images(batch, 2, generator)[2].sum())
    return images / (time.perf_counter() - began)


def main() -> None:
    """Run all of it and print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--mix", choices=("scans", "small"), default="scans")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peak-of", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.peak_of is not None:
        print(json.dumps(own_peak(options.peak_of, options.size, options.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as root:
        folder = Path(root) / "in"
        folder.mkdir()
        kinds = make_files(options.data, folder, options.mix, options.files)
        count = sum(kinds.values())
        turns: dict[str, list[float]] = {"plain": [], "monai": [], "ours": []}
        free: list[float] = []
        torch.set_num_threads(1)
        for _ in range(options.repeats):
            free.append(cores_free())
            turns["plain"].append(timed(lambda: plain(folder, options.size)))
            turns["ours"].append(timed(lambda: ours(folder, options.size, options.workers)))
            turns["monai"].append(timed(lambda: monai(folder, options.size)))
        home, settings = Path(root) / "home", IngestSettings(image_size=options.size, window="percentile")
        first = timed(lambda: ingest(folder, home, settings, workers=options.workers, ocr=False))
        repeats = [timed(lambda: ingest(folder, home, settings, ocr=False)) for _ in range(options.repeats)]
        medians = {name: statistics.median(seconds) for name, seconds in turns.items()}
        result = {
            "files": kinds,
            "files_per_s": {name: round(count / seconds) for name, seconds in medians.items()},
            "seconds": {name: [round(turn, 2) for turn in seconds] for name, seconds in turns.items()},
            "ours_over_plain": round(medians["plain"] / medians["ours"], 2),
            "ours_over_monai": round(medians["monai"] / medians["ours"], 2),
            "unchanged_share": round(statistics.median(repeats) / first, 4),
            "random_access_images_per_s": round(access(home)),
            "peak_mib": {n: peak(folder, n, options.size, options.workers) for n in (200, count)},
            "cores_free_before": free,
        }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
