"""Images per second and peak memory of a synthetic set, against the bare forward pass and a plain pydicom loop.

    python -m tests.benchmarks.generate [--count 10000] [--rounds 3] [--sizes 64 128]

Each way runs in a process of its own, so that its peak memory is its own; the ways take turns, and the table shows the
median of the rounds. "bare" is the decoder's forward pass on as many latents, one batch after the other, which keeps
nothing; "pooled" is the same with batches side by side (`common.host.ordered`), as sets are drawn: the least that a set
can take. "pydicom" builds and saves each file with `pydicom`'s `save_as`, as a plain script would. Ratios are to
"bare", to "pooled" and, for DICOM, to "pydicom". "x10 memory" is the growth of peak memory when ten times as many
images are written.
"""

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from common.dicom.iods import new_image, set_pixels
from common.host.ordered import in_order
from common.images.pixels import unit_to_uint8
from common.model.study_model import initial
from common.model.synthesis import BATCH, Decoder
from common.plan.study_plan import StudyPlan
from common.wire.release_bundle import Bundle, seal_bundle
from common.wire.signing import Key
from deploy.release.generate import generate

PLAN = """
name = "benchmark"
[data]
modality = ["CR"]
body_part = "CHEST"
image_size = {size}
labels = ["normal", "lesion"]
[model]
latent = 16
channels = [16, 32, 32]
"""
WAYS = ("bare", "pooled", "npz", "png", "dicom", "pydicom")


def main() -> None:
    """Run every way in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_here(options.one, options.bundle, options.count)))
        return
    print(f"{options.count} images, median of {options.rounds} rounds taken in turn")
    heads = ("images/s", "time to bare", "to pooled", "faster than pydicom", "MiB", "x10 memory")
    print(f"{'pixels':>6} {'way':8}" + "".join(f"{head:>{len(head) + 2}}" for head in heads))
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            bundle = make_bundle(Path(folder) / "bundle", size)
            table(bundle, size, options.count, options.rounds)


def table(bundle: Path, size: int, count: int, rounds: int) -> None:
    """Print the rows of one image size."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(apart(way, bundle, count))
    seconds = {way: statistics.median(run["seconds"] for run in runs) for way, runs in found.items()}
    for way, runs in found.items():
        memory = statistics.median(run["mib"] for run in runs)
        small = apart(way, bundle, max(2 * BATCH, count // 10))["mib"]
        versus = f"{seconds['pydicom'] / seconds[way]:.2f}" if way == "dicom" else ""
        print(
            f"{size:6} {way:8}{count / seconds[way]:10.0f}{seconds[way] / seconds['bare']:14.2f}"
            f"{seconds[way] / seconds['pooled']:11.2f}{versus:>21}{memory:5.0f}{memory / small:12.2f}",
            flush=True,
        )


def apart(way: str, bundle: Path, count: int) -> dict[str, float]:
    """Run one way in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.generate", "--one", way, "--bundle", str(bundle), "--count"]
    done = subprocess.run([*command, str(count)], capture_output=True, text=True, check=True, timeout=1800)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_here(way: str, bundle: Path, count: int) -> dict[str, float]:
    """Time one way in this process; loading and a first batch are not counted."""
    decoder = Bundle.load(bundle).decoder
    next(decoder.batches("normal", seed=9))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        began = time.perf_counter()
        if way in ("bare", "pooled"):
            bare(decoder, count, workers=1 if way == "bare" else None)
        elif way == "pydicom":
            plain_loop(decoder, count, out)
        else:
            generate(bundle, out, count=count // 2, form=way, seed=1)  # type: ignore[arg-type]
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def bare(decoder: Decoder, count: int, *, workers: int | None) -> None:
    """Decode and forget."""
    for index in range(2):
        latents = (
            torch.randn((min(BATCH, count // 2 - first), decoder.model.latent_size))
            for first in range(0, count // 2, BATCH)
        )
        for _ in in_order(functools.partial(decoder.images, index=index), latents, workers=workers):
            pass


def plain_loop(decoder: Decoder, count: int, out: Path) -> None:
    """What a script would do: one dataset and one `save_as` for each image."""
    out.mkdir()
    for label in decoder.labels:
        for index, image in enumerate(decoder.draw(label, count // 2, seed=1)):
            uid = f"2.25.{index + 1}"
            dataset = new_image("CR", body_part="CHEST", image_uid=uid, series_uid=f"{uid}.1", study_uid=f"{uid}.2")
            dataset.PatientName, dataset.PatientID = "SYNTHETIC^PLAIN", f"SYNTHETIC-{index}"
            set_pixels(dataset, unit_to_uint8(image))
            dataset.save_as(out / f"{label}-{index}.dcm", enforce_file_format=True)


def make_bundle(folder: Path, size: int) -> Path:
    """A signed bundle of an untrained decoder whose images vary: speed does not depend on what it learnt."""
    plan = StudyPlan.parse(PLAN.format(size=size))
    arrays = initial(plan).arrays()
    generator = torch.Generator().manual_seed(0)
    arrays["start.basis"] = torch.randn(arrays["start.basis"].shape, generator=generator).numpy() / 4
    arrays["start.factor"] = torch.eye(16).repeat(2, 1, 1).numpy() * 0.2
    decoder = Decoder.of(plan, arrays)
    decoder.save(folder / "decoder.safetensors")
    privacy = {"enabled": True, "epsilon_by_site": {"north": 1.0}}
    card = {"plan_digest": plan.digest, "decoder_digest": decoder.digest, "privacy": privacy}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "report.html").write_text("benchmark")
    seal_bundle(folder, Key.at(folder.parent / "key"))
    return folder


if __name__ == "__main__":
    main()
