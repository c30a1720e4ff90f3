"""Images come from the released decoder alone, the same for the same seed, whole or not at all."""

import csv
import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from common.errors import DataError, OutputInUse, PlanError, SignatureInvalid
from common.images.pixels import unit_to_uint8
from common.model.output_screening import Screening
from common.model.synthesis import BATCH, Decoder
from common.wire.release_bundle import FILES, Bundle
from deploy.release.generate import generate
from deploy.release.onnx_export import export
from deploy.release.sheets import write_sheets
from tests.common.synthetic_files import read_provenance


def test_dicom_files_state_where_they_come_from_and_name_nobody(finished: Path, tmp_path: Path) -> None:
    generate(finished, tmp_path / "out", count=3, labels=("lesion",), form="dicom", seed=4)
    card = json.loads((finished / "card.json").read_text())
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(files) == 3
    for file in files:
        stated = read_provenance(file)
        assert (stated.plan_digest, stated.decoder_digest) == (card["plan_digest"], card["decoder_digest"])
        assert stated.epsilon == max(card["privacy"]["epsilon_by_site"].values())
        assert "SYNTHETIC" in str(pydicom.dcmread(file).PatientName)


def test_every_form_holds_the_same_pixels(finished: Path, tmp_path: Path) -> None:
    for form in ("dicom", "png", "nifti", "npz"):
        generate(finished, tmp_path / form, count=2, labels=(), form=form, seed=4)  # type: ignore[arg-type]
    with np.load(tmp_path / "npz" / "synthetic.npz") as archive:
        images, names = archive["images"], archive["label_names"][archive["labels"]]
    order = [(str(name), index % 2) for index, name in enumerate(names)]
    for (label, index), pixels in zip(order, images, strict=True):
        png = np.asarray(Image.open(tmp_path / "png" / label / f"{index:06d}.png"))
        dicom = pydicom.dcmread(tmp_path / "dicom" / label / f"{index:06d}.dcm").pixel_array
        np.testing.assert_array_equal(png, pixels)
        nifti = nibabel.load(tmp_path / "nifti" / label / f"{index:06d}.nii.gz")
        np.testing.assert_array_equal(dicom, pixels)
        np.testing.assert_array_equal(np.asarray(nifti.dataobj)[:, :, 0].T, pixels)


def test_same_seed_same_bytes_and_other_seeds_never_repeat_an_image(finished: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(finished, tmp_path / name, count=4, labels=(), form="dicom", seed=seed)
    a, b, c = ([file.read_bytes() for file in sorted((tmp_path / name).rglob("*.dcm"))] for name in "abc")
    assert a == b
    assert not set(a) & set(c)


def test_the_images_are_the_same_however_many_are_drawn_at_once(finished: Path) -> None:
    decoder, threads = Decoder.load(finished / "decoder.safetensors"), torch.get_num_threads()
    sets = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            sets.append(np.concatenate([images for _, images in Screening(decoder).draw("lesion", 200, seed=1)]))
    finally:
        torch.set_num_threads(threads)
    assert len(sets[0]) == 200
    assert all(np.array_equal(sets[0], other) for other in sets[1:])
    one_by_one = np.stack([unit_to_uint8(image) for image in decoder.draw("lesion", 20, seed=1)])
    assert np.array_equal(one_by_one, sets[0][:20])


def test_a_longer_draw_begins_with_the_shorter_ones_images(finished: Path) -> None:
    decoder = Decoder.load(finished / "decoder.safetensors")
    short, long = (list(decoder.draw("normal", count, seed=1)) for count in (3, BATCH + 3))
    assert len(long) == BATCH + 3
    assert all(np.array_equal(x, y) for x, y in zip(short, long, strict=False))


@pytest.mark.parametrize("form", ["dicom", "png", "nifti", "npz"])
def test_every_form_has_one_manifest_line_an_image_and_the_same_bytes_twice(
    finished: Path, tmp_path: Path, form: str
) -> None:
    for name in ("a", "b"):
        generate(finished, tmp_path / name, count=3, form=form, seed=4)  # type: ignore[arg-type]
    files = [file.relative_to(tmp_path / "a") for file in sorted((tmp_path / "a").rglob("*")) if file.is_file()]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    rows = list(csv.DictReader((tmp_path / "a" / "manifest.csv").read_text().splitlines()))
    assert [(row["label"], row["index"]) for row in rows] == [
        (x, str(i)) for x in ("normal", "lesion") for i in range(3)
    ]
    if form != "npz":
        assert all(sha256((tmp_path / "a" / r["file"]).read_bytes()).hexdigest() == r["sha256"] for r in rows)


def test_a_dicomdir_lists_every_file_and_the_manifest_tells_its_label(finished: Path, tmp_path: Path) -> None:
    generate(finished, tmp_path / "plain", count=3, form="dicom", seed=4)
    for name in ("disc", "again"):
        generate(finished, tmp_path / name, count=3, form="dicom", seed=4, dicomdir=True)
    disc = tmp_path / "disc"
    rows = list(csv.DictReader((disc / "manifest.csv").read_text().splitlines()))
    lines = csv.DictReader((tmp_path / "plain" / "manifest.csv").read_text().splitlines())
    plain = {row["sha256"]: (row["label"], row["index"]) for row in lines}
    assert {row["sha256"]: (row["label"], row["index"]) for row in rows} == plain
    for row in rows:
        assert sha256((disc / row["file"]).read_bytes()).hexdigest() == row["sha256"]
        assert all(re.fullmatch(r"[A-Z0-9_]{1,8}", step) for step in row["file"].split("/"))
    listed = pydicom.dcmread(disc / "DICOMDIR").DirectoryRecordSequence
    files = {"/".join(record.ReferencedFileID) for record in listed if "ReferencedFileID" in record}
    assert files == {row["file"] for row in rows}
    assert (disc / "DICOMDIR").read_bytes() == (tmp_path / "again" / "DICOMDIR").read_bytes()


def test_a_dicomdir_that_would_take_hours_is_refused_before_anything_is_drawn(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it takes 2000"):
        generate(finished, tmp_path / "out", count=2001, labels=("lesion",), dicomdir=True)
    assert not (tmp_path / "out").exists()


def test_prevalence_draws_labels_as_often_as_the_studys_noised_counts_say(finished: Path, tmp_path: Path) -> None:
    result = generate(finished, tmp_path / "out", count=20, mix="prevalence", form="npz", seed=1)
    shares = Bundle.load(finished).decoder.prevalence()
    assert sum(result["images"].values()) == 40
    assert all(abs(count - 40 * shares[label]) < 1 for label, count in result["images"].items())


def test_a_bundle_of_another_signer_is_refused_where_one_is_named(finished: Path, tmp_path: Path) -> None:
    signer = Bundle.load(finished).signer
    generate(finished, tmp_path / "right", count=1, form="png", trusted=signer)
    with pytest.raises(SignatureInvalid, match="not by the trusted"):
        generate(finished, tmp_path / "wrong", count=1, form="png", trusted="0" * 64)
    assert not (tmp_path / "wrong").exists()


def test_sheets_and_onnx_come_from_the_bundle_alone(finished: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in (*FILES, "manifest.json", "manifest.sig"):
        shutil.copy(finished / name, bundle / name)
    names = write_sheets(bundle, tmp_path / "sheets", seed=1)
    assert names == sorted(file.name for file in (tmp_path / "sheets").iterdir())
    assert {"labels.png", "walk-lesion.png", "between-normal.png"} <= set(names)
    result = export(bundle, tmp_path / "decoder.onnx")
    assert result["largest_difference"] < 1e-5


def test_an_unknown_label_writes_nothing(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no label 'fracture'\. It has: normal, lesion"):
        generate(finished, tmp_path / "out", count=1, labels=("fracture",), form="png", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_used_output_folder_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(OutputInUse):
        generate(finished, tmp_path, count=1, labels=(), form="png", seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["keep"]


@pytest.mark.parametrize("harm", ["flip", "truncate", "no card", "foreign card", "not json"])
def test_an_altered_release_is_refused(finished: Path, tmp_path: Path, harm: str) -> None:
    release = tmp_path / "release"
    release.mkdir()
    for name in (*FILES, "manifest.json", "manifest.sig"):
        shutil.copy(finished / name, release / name)
    decoder, card = release / "decoder.safetensors", release / "card.json"
    if harm == "flip":
        content = bytearray(decoder.read_bytes())
        content[-5] ^= 64
        decoder.write_bytes(bytes(content))
    elif harm == "truncate":
        decoder.write_bytes(decoder.read_bytes()[:-9])
    elif harm == "no card":
        card.unlink()
    elif harm == "foreign card":
        card.write_text(card.read_text().replace(json.loads(card.read_text())["decoder_digest"], "0" * 64))
    else:
        card.write_text("{")
    with pytest.raises(SignatureInvalid):
        generate(release, tmp_path / "out", count=1, labels=(), form="png", seed=0)
    assert not (tmp_path / "out").exists()


def test_the_decoder_file_holds_no_encoder(finished: Path) -> None:
    from safetensors import safe_open

    with safe_open(finished / "decoder.safetensors", framework="numpy") as file:
        names = set(file.keys())
    assert not [name for name in names if name.startswith(("encode", "mu", "logvar", "start.gain", "start.spread"))]
