"""The measures of the recovery benchmark are right, and a small hidden dictionary is recovered."""

import pytest
import torch

from benchmarks.recovery import Problem, Truth, measured, ours, plan_of, recovery, start
from tests.support.small import generator, normal

TINY = Problem("tiny", d_model=16, n_true=24, n_active=2.0)


@pytest.fixture(scope="module")
def true():
    return Truth(TINY, seed=0).directions


def test_the_truth_scores_one_in_any_order_and_at_any_length(true):
    order = torch.randperm(len(true), generator=generator(1))
    lengths = 0.1 + normal(len(true), 1, seed=2, dtype=torch.float32).abs()
    assert recovery(lengths * true[order], true) == pytest.approx(
        {"true_cosine": 1, "learned_cosine": 1, "recall": 1, "precision": 1}
    )


def test_random_directions_find_nothing(true):
    found = recovery(normal(*true.shape, seed=3, dtype=torch.float32), true)
    assert found["recall"] == found["precision"] == 0
    assert found["true_cosine"] < 0.7


def test_a_feature_is_found_once_however_many_copies_there_are(true):
    copies = torch.cat([true[:6], true[:6], true[:6]])
    found = recovery(copies, true)
    assert (found["recall"], found["precision"]) == (6 / 24, 6 / 18)
    assert found["learned_cosine"] == pytest.approx(1)
    assert found["true_cosine"] < 1


def test_a_direction_between_two_features_stands_for_one_of_them():
    near = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
    assert recovery(near.mean(0, keepdim=True), near)["recall"] == 0.5


def test_a_reversed_feature_is_not_found(true):
    assert recovery(-true, true)["recall"] == 0


@pytest.mark.parametrize("together", [0.0, 0.5])
def test_features_fire_as_often_as_the_problem_says(together):
    problem = Problem("", d_model=24, n_true=24, n_active=3.0, together=together, rarest=0.2)
    truth = Truth(problem, seed=1)
    vars(truth)["directions"] = torch.eye(24)  # so that an activation is its features
    fires = (truth.tokens(0, 20_000) > 0).double().mean(0)
    torch.testing.assert_close(fires, problem.frequencies(), atol=0.02, rtol=0.05)
    assert float(fires.sum()) == pytest.approx(3.0, abs=0.1)


def test_noise_has_its_share_of_the_variance():
    quiet, loud = (Truth(Problem("", noise=noise), 0).tokens(0, 5000) for noise in (0.0, 0.2))
    share = float((loud - quiet).var(0).mean() / loud.var(0).mean())
    assert share == pytest.approx(0.2, abs=0.01)


def test_a_hidden_dictionary_is_recovered_from_a_start_that_does_not_hold_it():
    truth = Truth(TINY, seed=0)
    batches = [truth.tokens(part, 512) for part in range(200)]
    held_out = truth.tokens(len(batches), 4096)
    plan = plan_of(TINY, batches, rate=1e-2, seed=0)
    before, after = (measured(way(batches, plan), truth, held_out) for way in (start, ours))
    assert before["recall"] == 0
    assert before["true_cosine"] < 0.7
    assert after["recall"] > 0.7
    assert after["fvu"] < 0.4 * before["fvu"]
