"""The phantoms are learnable, told apart by their label, and the same every time."""

import dataclasses

import numpy as np
import pytest
import torch

from common.images.phantoms import draw_image, draw_patient, public_phantoms


def test_the_public_set_is_the_same_every_time_and_differs_by_seed() -> None:
    first, labels = public_phantoms(6, size=32)
    again, _ = public_phantoms(6, size=32)
    other, _ = public_phantoms(6, size=32, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(("labels", "expected"), [(0, [0, 0, 0]), (1, [0, 0, 0]), (2, [0, 1, 0]), (5, [0, 1, 0])])
def test_labels_cycle_over_the_classes_that_have_a_shape(labels: int, expected: list[int]) -> None:
    assert public_phantoms(3, size=28, labels=labels)[1].tolist() == expected


@pytest.mark.parametrize("size", [28, 32, 64, 128])
def test_images_are_float32_in_range_with_dark_air_and_bright_middle(size: int) -> None:
    images, labels = public_phantoms(20, size=size)
    assert images.shape == (20, 1, size, size)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert float(images.abs().max()) <= 1.0
    corner = images[:, 0, 0, 0]
    spine = images[:, 0, :, size // 2].mean(1)
    left_lung = images[:, 0, int(size * 0.4), int(size * 0.72)]
    assert float(corner.max()) < -0.9
    assert float(spine.min()) > 0.0
    assert float(left_lung.max()) < -0.2


def test_twelve_components_hold_85_percent_of_the_variance_at_32_pixels() -> None:
    images, _ = public_phantoms(400, size=32)
    flat = images.reshape(400, -1).numpy().astype(np.float64)
    energy = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2
    assert energy[:12].sum() / energy.sum() >= 0.85


def test_a_linear_rule_learnt_on_half_of_a_twelve_component_code_tells_the_labels_of_the_other_half() -> None:
    images, labels = public_phantoms(400, size=32)
    flat = images.reshape(400, -1).numpy()
    flat = flat - flat.mean(0)
    basis = np.linalg.svd(flat, full_matrices=False)[2][:12]
    codes = np.concatenate([flat @ basis.T, np.ones((400, 1))], axis=1)
    target = labels.numpy() * 2.0 - 1.0
    rule = np.linalg.lstsq(codes[:200], target[:200], rcond=None)[0]
    assert np.mean(np.sign(codes[200:] @ rule) == target[200:]) > 0.97


def test_the_opacity_lies_in_the_right_lung_which_is_on_the_left_of_the_image() -> None:
    anatomy = draw_patient(np.random.default_rng(0))
    normal = draw_image(anatomy, label=0, size=64, rng=np.random.default_rng(1))
    lesion = draw_image(anatomy, label=1, size=64, rng=np.random.default_rng(1))
    gain = lesion - normal
    row, column = np.unravel_index(int(gain.argmax()), gain.shape)
    assert gain.max() > 0.4
    assert column < 28
    assert 24 < row < 56


def test_images_of_one_patient_are_nearer_to_each_other_than_to_other_patients() -> None:
    rng = np.random.default_rng(3)
    patients = [draw_patient(rng) for _ in range(12)]
    pairs = [[draw_image(patient, label=0, size=32, rng=rng) for _ in range(2)] for patient in patients]
    within = np.mean([np.mean((first - second) ** 2) for first, second in pairs])
    between = np.mean([np.mean((pairs[i][0] - pairs[i - 1][0]) ** 2) for i in range(12)])
    assert 0 < within < 0.7 * between


def test_an_anatomy_is_frozen() -> None:
    anatomy = draw_patient(np.random.default_rng(0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        anatomy.heart_size = 1.0  # type: ignore[misc]
