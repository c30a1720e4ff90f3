"""What hostile or broken bytes may cost: one file, never the ingest, never a picture that was not earned."""

import os
import resource
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, MediaStorageDirectoryStorage

from client.admission.ingest import IngestSettings, ingest
from client.admission.scan import Job
from client.cohort.cache import Cache
from client.decoder.pool import Limits
from client.decoder.process import BrokenProtocol, DecodeProcess
from client.dicom import reader
from common.errors import ScanRefused, StateError
from tests.client.scans import cohort, picture, save, scan

SETTINGS = IngestSettings(image_size=32)


def reason_of(path: Path, limits: Limits | None = None) -> str:
    """The reason one file is refused for, with a good one beside it."""
    save(scan(seed=1, patient="GOOD"), path.parent / "good.dcm")
    summary = ingest(path.parent, path.parent.with_name("home"), SETTINGS, limits=limits)
    assert summary.patients == 1
    ((name, reason),) = summary.refusals
    assert name == path.name
    return reason


def test_file_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = save(scan(seed=2), tmp_path / "whole.dcm").read_bytes()
    for cut in [*range(0, len(whole) - 4, 97), len(whole) - 1]:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{cut}.dcm").write_bytes(whole[:cut])
    save(scan(seed=3), tmp_path / "in" / "good.dcm")
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert summary.admitted == 1
    assert set(summary.reasons) <= {"truncated", "no_pixels", "not_dicom", "malformed", "unsupported_object"}


@pytest.mark.parametrize("magic", [b"MZ\x90\x00", b"\x7fELF", b"#!/bin/sh\n", b"PK\x03\x04", b"%PDF-1.7", b"<script>"])
def test_preamble_that_makes_a_second_kind_of_file_is_refused(tmp_path: Path, magic: bytes) -> None:
    path = save(scan(seed=2), tmp_path / "in" / "a.dcm")
    path.write_bytes(magic + path.read_bytes()[len(magic) :])
    assert reason_of(path) == "polyglot"


def test_tiff_preamble_is_allowed_by_the_standard(tmp_path: Path) -> None:
    path = save(scan(seed=2), tmp_path / "in" / "a.dcm")
    path.write_bytes(b"II*\x00" + path.read_bytes()[4:])
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).admitted == 1


def nested(depth: int) -> Dataset:
    item = Dataset()
    item.PatientComments = "deep"
    for _ in range(depth):
        outer = Dataset()
        outer.SharedFunctionalGroupsSequence = [item]
        outer["SharedFunctionalGroupsSequence"].is_undefined_length = True
        item = outer
    return item


def test_sequences_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = save(scan(seed=2, SharedFunctionalGroupsSequence=[nested(0)]), tmp_path / "in" / "a.dcm")
    sequence, item = b"\x00\x52\x29\x92SQ\x00\x00\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    head, found, tail = path.read_bytes().partition(sequence[:6])
    assert found
    path.write_bytes(head + (sequence + item) * 5000 + found + tail)
    assert reason_of(path) in ("too_deep", "malformed")


def test_real_nesting_is_read(tmp_path: Path) -> None:
    save(scan(seed=2, SharedFunctionalGroupsSequence=[nested(12)]), tmp_path / "in" / "a.dcm")
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).admitted == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "absurd_size"),
        ({"NumberOfFrames": 2_000_000_000}, "absurd_size"),
        ({"NumberOfFrames": 3}, "truncated"),
        ({"Rows": 41}, "truncated"),
        ({"Rows": 0}, "too_small"),
        ({"NumberOfFrames": -1}, "malformed"),
        ({"BitsAllocated": 13}, "malformed"),
        ({"SamplesPerPixel": 0}, "malformed"),
        ({"SamplesPerPixel": 65535}, "malformed"),
        ({"PhotometricInterpretation": "NONSENSE"}, "unsupported_colour"),
        ({"BitsStored": 17}, "contradictory_header"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "burned_in"),
        ({"PixelData": None}, "no_pixels"),
        ({"PatientID": ""}, "no_patient_id"),
        ({"PatientID": "  "}, "no_patient_id"),
        ({"RescaleSlope": 0}, "malformed"),
        ({"SOPClassUID": MediaStorageDirectoryStorage}, "unsupported_object"),
    ],
)
def test_lies_in_the_header_are_refused_by_their_kind(tmp_path: Path, values: dict[str, object], reason: str) -> None:
    path = save(scan(seed=2, **values), tmp_path / "in" / "a.dcm")
    assert reason_of(path) == reason


def test_deflated_bomb_is_stopped_at_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 1 << 20)
    deflater = zlib.compressobj(9, wbits=-15)
    body = deflater.compress(bytes(8 << 20)) + deflater.flush()
    uid = DeflatedExplicitVRLittleEndian.encode()
    meta = b"\x02\x00\x10\x00UI" + len(uid).to_bytes(2, "little") + uid
    with pytest.raises(ScanRefused, match="absurd_size"):
        reader.parse_header(bytes(128) + b"DICM" + meta + body)
    with pytest.raises(ScanRefused, match="truncated"):
        reader.parse_header(bytes(128) + b"DICM" + meta + body[: len(body) // 9])


def test_compressed_stream_without_its_end_is_refused(tmp_path: Path) -> None:
    dataset = scan(picture(2), seed=2)
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    path = save(dataset, tmp_path / "in" / "a.dcm")
    data = path.read_bytes()
    assert data[-8:-4] == b"\xfe\xff\xdd\xe0"
    path.write_bytes(data[:-8])
    assert reason_of(path) == "truncated"


def test_memory_beyond_the_limit_costs_the_file(tmp_path: Path) -> None:
    dataset = scan(np.zeros((8, 8), np.uint16), seed=2, Rows=8000, Columns=8000)
    path = save(dataset, tmp_path / "in" / "a.dcm")
    data = path.read_bytes()
    head = data[: -128 - 4] + (128_000_000).to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + 128_000_000 - 2)
        file.write(b"\x01\x00")
    assert reason_of(path, Limits(memory_bytes=1 << 30)) in ("absurd_size", "crashed")


def during(folder: Path, act: Callable[[psutil.Process], None], limits: Limits) -> dict[str, int]:
    """Ingest a folder by one decoder, doing something to it once the first file is done."""
    done: list[int] = []

    def progress(_done: int, _total: int) -> None:
        if not done:
            done.append(1)
            for child in psutil.Process().children():
                act(child)

    summary = ingest(folder, folder.with_name("home"), SETTINGS, workers=1, progress=progress, limits=limits)
    assert summary.files == summary.admitted + summary.refused == 40
    assert Cache.open(folder.with_name("home")).images == summary.admitted
    return summary.reasons


def test_killed_decoder_costs_one_file(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=20)
    reasons = during(tmp_path / "in", lambda child: child.kill(), Limits())
    assert reasons == {"crashed": 1}


def test_decoder_that_hangs_costs_one_file(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=20)
    reasons = during(tmp_path / "in", lambda child: child.suspend(), Limits(seconds=8))
    assert reasons == {"timed_out": 1}


def test_a_decoder_that_was_taken_over_is_not_believed(tmp_path: Path) -> None:
    process = DecodeProcess(SETTINGS, Limits(), ocr=False, scratch=tmp_path)
    try:
        process.jobs.append(Job(number=4, path=tmp_path))
        honest = {"job": 4, "slot": 0, "height": 2, "width": 3, "aspect": 1.0}
        assert process.picture(honest)[0].shape == (2, 3)
        for lie in ({"slot": 2}, {"slot": -1}, {"height": 1 << 20, "width": 1 << 20}, {"height": -5, "width": -5},
                    {"width": "3"}, {"aspect": 0}, {"aspect": 1e99}, {"slot": None}):  # fmt: skip
            with pytest.raises(BrokenProtocol):
                process.picture({**honest, **lie})
        told = {"job": 4, "reason": None, "facts": {"patient_id": "P"}, "digest": ""}
        facts = ({"patient_id": 7}, {"rows": "x"}, None, {"secret": ""}, {"patient_id": "P" * 5000})
        for lie in ({"reason": "so_be_it"}, {"reason": "burned_in"}, *({"facts": fact} for fact in facts)):
            with pytest.raises(BrokenProtocol):
                process.finish({**told, **lie})
        with pytest.raises(BrokenProtocol):
            process.answers_first({"job": 5})
        process.finish(told)
        with pytest.raises(BrokenProtocol):
            [process.picture(honest) for _ in range(10_001)]
    finally:
        process.kill()


def test_no_decoder_outlives_the_ingest(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=1)
    before = set(psutil.Process().children())
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert set(psutil.Process().children()) <= before


def test_decoders_do_not_inherit_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARDROUND_TEST_TOKEN", "secret")
    cohort(tmp_path / "in", patients=20)
    seen: list[dict[str, str]] = []
    during(tmp_path / "in", lambda child: seen.append(child.environ()), Limits())
    assert seen
    assert not [environment for environment in seen if "WARDROUND_TEST_TOKEN" in environment]


def test_full_disk_leaves_the_old_cache(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=3)
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    before = Cache.open(tmp_path / "home").generation
    cohort(tmp_path / "in", patients=30)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1000, 20_000, 100_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
        try:
            with pytest.raises(StateError, match=r"old cache|old one|cannot be written"):
                ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert Cache.open(tmp_path / "home").generation == before
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).patients == 30
    assert not list((tmp_path / "home" / "cache").glob(".draft*"))


def test_two_ingests_do_not_meet(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=3)
    seen: list[str] = []

    def progress(_done: int, _total: int) -> None:
        if not seen:
            with pytest.raises(StateError, match="another ingest") as caught:
                ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
            seen.append(str(caught.value))

    ingest(tmp_path / "in", tmp_path / "home", SETTINGS, progress=progress)
    assert seen


def test_spoilt_cache_is_made_afresh(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=3)
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    before = Cache.open(tmp_path / "home").generation
    (path,) = (tmp_path / "home" / "cache").rglob("images.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert summary.reused == 0
    assert Cache.open(tmp_path / "home").generation == before


def test_file_swapped_for_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    signal.alarm(60)
    try:
        with pytest.raises(ScanRefused, match="not_regular"):
            reader.read_file(tmp_path / "fifo")
    finally:
        signal.alarm(0)
    (tmp_path / "link").symlink_to(save(scan(), tmp_path / "a.dcm"))
    with pytest.raises(OSError, match="link"):
        reader.read_file(tmp_path / "link")
