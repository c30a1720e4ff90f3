"""The evaluation tells good from bad: each fault of a synthetic set is caught by the measure meant for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from client.cohort.image_blocks import gathered, parts
from client.evaluation import diversity, fidelity, nearness, tstr
from client.evaluation.candidate import Candidate
from client.evaluation.curves import curves
from client.evaluation.figures import figures
from client.evaluation.membership import lira, losses
from common.images.encoder import encoder, features
from common.images.phantoms import public_phantoms
from common.model.study_model import initial
from tests.client.cohorts import small_cohort, small_plan

SIZE, COUNT = 32, 240


def draw(seed: int, count: int = COUNT) -> tuple[Tensor, Tensor]:
    images, labels = public_phantoms(count, size=SIZE, seed=seed)
    return images[:, 0], labels


REAL, LABELS = draw(1)
FRESH, FRESH_LABELS = draw(2)
BLURRED = functional.avg_pool2d(functional.pad(FRESH[:, None], (2, 2, 2, 2), mode="replicate"), 5, stride=1)[:, 0]
COLLAPSED = FRESH[:4].repeat(COUNT // 4, 1, 1) + 0.01 * torch.randn(
    (COUNT, SIZE, SIZE), generator=torch.Generator().manual_seed(0)
)
NOISE = torch.rand((COUNT, SIZE, SIZE), generator=torch.Generator().manual_seed(0)) * 2 - 1
BAD = {"blurred": BLURRED, "collapsed": COLLAPSED, "noise": NOISE}


def test_fresh_real_images_reach_the_ceiling() -> None:
    found = fidelity.manifold(features(REAL), features(FRESH))
    assert min(found.precision, found.recall, found.coverage) > 0.85
    assert 0.8 < found.density < 1.2
    assert abs(fidelity.kernel(features(REAL), features(FRESH))) < 0.2


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_set_is_several_times_farther_away_than_a_good_one(name: str) -> None:
    real, good, bad = features(REAL), features(FRESH), features(BAD[name])
    assert fidelity.frechet(real, bad) > 4 * fidelity.frechet(real, good)
    assert fidelity.kernel(real, bad) > 10 * abs(fidelity.kernel(real, good))


def test_blur_and_noise_cost_precision_and_collapse_costs_recall() -> None:
    real = features(REAL)
    assert fidelity.manifold(real, features(BLURRED)).precision < 0.6
    assert fidelity.manifold(real, features(NOISE)).precision < 0.05
    collapsed = fidelity.manifold(real, features(COLLAPSED))
    assert collapsed.recall < 0.3
    assert collapsed.coverage < 0.3


def test_blur_shows_in_the_curve_of_detail() -> None:
    sharp, blurred = curves(FRESH)["detail"], curves(BLURRED)["detail"]
    assert sharp[-1] - blurred[-1] > 0.3
    assert abs(sharp[0] - blurred[0]) < 0.2


def test_collapse_shows_in_the_similarity_of_pairs() -> None:
    usual = diversity.ms_ssim(REAL, LABELS, between=False)
    assert abs(diversity.ms_ssim(FRESH, FRESH_LABELS, between=False) - usual) < 0.05
    assert diversity.ms_ssim(COLLAPSED, FRESH_LABELS, between=False) > usual + 0.03


def test_right_labels_teach_and_shuffled_ones_do_not() -> None:
    patients = np.arange(COUNT)
    shuffled = FRESH_LABELS[torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))]
    right = tstr.Classifier(FRESH, FRESH_LABELS, classes=2).probabilities(REAL)
    wrong = tstr.Classifier(FRESH, shuffled, classes=2).probabilities(REAL)
    good = tstr.auc(right, LABELS.numpy(), patients)
    assert good.low > 0.9
    assert tstr.auc(wrong, LABELS.numpy(), patients).value < good.low - 0.1


def test_copies_of_training_images_show_and_fresh_images_do_not() -> None:
    fresh = nearness.compare(REAL[:120], REAL[120:], FRESH)
    assert fresh.ratio.low < 1 < fresh.ratio.high
    assert fresh.auc.low < 0.5 < fresh.auc.high
    copies = REAL[:120] + 0.01 * torch.randn((120, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    copied = nearness.compare(REAL[:120], REAL[120:], copies)
    assert copied.ratio.high < 0.5
    assert copied.auc.low > 0.95


def test_exact_twins_on_both_sides_do_not_look_like_copying() -> None:
    twins = 29
    trained, held_out = REAL[:120].clone(), REAL[120:].clone()
    held_out[:twins] = trained[:twins]
    twice = torch.cat([trained, trained[-twins:]])
    found = nearness.compare(twice, held_out, FRESH)
    assert found.twins == 3 * twins
    assert found.ratio.low < 1 < found.ratio.high
    assert found.auc.low < 0.5 < found.auc.high


def test_the_light_lira_finds_members_where_there_is_something_to_find() -> None:
    random = np.random.default_rng(0)
    halves = [random.permutation(np.arange(200) % 2 == 0) for _ in range(4)]
    inside = np.array([*halves, *(~half for half in halves)])
    members = np.arange(200) % 2 == 1
    hardness = random.normal(10, 5, 200)
    for effect, found in ((2.0, True), (0.0, False)):
        shadows = hardness - effect * inside + random.normal(0, 0.5, inside.shape)
        target = hardness - effect * members + random.normal(0, 0.5, 200)
        figure = lira(target, shadows, inside, members)
        assert (figure.low > 0.8) is found
        assert (figure.low < 0.5 < figure.high) is not found


def test_sets_without_an_image_give_no_figure_and_no_error() -> None:
    nobody = REAL[:0]
    assert np.isnan(nearness.nearest(REAL[:3], among=nobody)).all()
    assert not len(nearness.nearest(nobody, among=REAL[:3]))
    twins = (REAL[:4], REAL[:4])
    for trained, held_out in ((nobody, REAL[:9]), (REAL[:9], nobody), (nobody, nobody), twins):
        found = nearness.compare(trained, held_out, FRESH)
        assert np.isnan(found.ratio.value)
        assert np.isnan(found.auc.value)


def test_a_patient_of_more_images_than_a_figure_takes_gives_some_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.evaluation.figures.MOST_IMAGES", 12)
    plan = small_plan()
    trained = small_cohort(tmp_path / "trained", patients=6, images=[20, 1, 2, 3, 1, 1])
    held_out = small_cohort(tmp_path / "held out", patients=8, images=2, seed=1)
    some = gathered(trained, most=12)
    assert torch.equal(some.images, trained.patient(0)[0][:12, 0])
    assert some.patients.tolist() == [0] * 12
    images, labels = trained.patient(0)[0][:, 0] * 0.9, torch.arange(20) % 2
    candidate = Candidate("c" * 64, initial(plan), images, labels, tstr.Classifier(images, labels, classes=2))
    found = figures(plan, candidate, trained, held_out)
    assert found["privacy"]["distance_auc"]["value"] is not None


def test_a_cohort_is_read_a_bounded_number_of_images_at_a_time(tmp_path: Path) -> None:
    cohort = small_cohort(tmp_path, patients=5, images=[3, 150, 1, 2, 70])
    found = list(parts(cohort, at_once=32))
    assert [len(part.labels) for part in found] == [32] * 7 + [2]
    assert max(len(part.labels) for part in parts(cohort)) <= 64
    for i in range(cohort.patients):
        images, labels = cohort.patient(i)
        assert torch.equal(torch.cat([part.images[part.patients == i] for part in found]), images[:, 0])
        assert torch.equal(torch.cat([part.labels[part.patients == i] for part in found]), labels)
    assert sum(len(part.labels) for part in parts(cohort, most=100)) == 100


def test_a_patients_loss_is_the_mean_over_its_images_whatever_parts_they_lie_in(tmp_path: Path) -> None:
    cohort, model = small_cohort(tmp_path, patients=3, images=[3, 90, 1]), initial(small_plan()).eval()
    with torch.no_grad():
        expected = [
            float(model.loss(*cohort.patient(i), torch.zeros(len(cohort.patient_rows(i)), 4)).mean()) for i in range(3)
        ]
    assert losses(model, cohort) == pytest.approx(np.array(expected), rel=1e-5)


def test_the_feature_encoder_draws_no_numbers_out_of_another_threads_seed() -> None:
    encoder.cache_clear()
    before = torch.random.get_rng_state()
    encoder()
    assert torch.equal(torch.random.get_rng_state(), before)
