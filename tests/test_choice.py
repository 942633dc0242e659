from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from isdh import choice, metrics
from isdh.choice import JUDGES, Outcome, Trial, best, carve, grid, read_log, write_log
from isdh.errors import InputError
from isdh.methods import METHODS
from isdh.settings import Choose, Network, Training
from isdh.training import TrainingRows

ROOT = Path(__file__).parents[1]
CHOOSE = Choose(learning_rate=(0.001, 0.01), mixup=(0.0, 0.5), bits=(8, 12), carve=40)


def outcome(method: str, bits: int, rate: float, mixup: float, *scores: float) -> Outcome:
    trial = Trial(method, bits, rate, mixup)
    return Outcome(trial, "u" * 12, **dict(zip(JUDGES, scores, strict=True)), seconds=1.0)


def rows(count: int = 200) -> TrainingRows:
    rng = np.random.default_rng(0)
    labels = rng.random((count, 4)) < 0.4
    values = (labels @ rng.normal(size=(4, 10)) + rng.normal(size=(count, 10))).astype(np.float16)
    trained = np.arange(0, count, 2)
    return TrainingRows(values, labels, trained, mirrored=values[trained] + np.float16(0.1))


def test_every_method_is_offered_the_same_configurations():
    trials = grid(CHOOSE, ["isdh", "dhn"])
    assert len(set(trials)) == len(trials) == 2 * 8
    offers = [
        {(t.bits, t.learning_rate, t.mixup) for t in trials if t.method == method}
        for method in ("isdh", "dhn")
    ]
    assert offers[0] == offers[1]


def test_a_fitted_method_is_tried_where_it_has_hyper_parameters_to_choose():
    lists = {"itq_cca": {"regularisation": (0.1, 1.0)}, "isdh": {"gamma": (1.0, 10.0)}}
    choose = CHOOSE.model_copy(update={"hyper": lists})
    trials = grid(choose, ["isdh", "dhn", "itq", "itq_cca"])
    counts = {name: sum(t.method == name for t in trials) for name in ("isdh", "dhn", "itq")}
    assert counts == {"isdh": 16, "dhn": 8, "itq": 0}
    assert [t for t in trials if t.method == "itq_cca"] == [
        Trial("itq_cca", bits, 0.0, 0.0, (("regularisation", value),))
        for value in (0.1, 1.0)
        for bits in (8, 12)
    ]


def test_rows_held_out_are_not_kept_and_all_rows_are_there():
    held, kept = carve(100, CHOOSE)
    assert len(held) == 40
    assert sorted([*held, *kept]) == list(range(100))
    assert np.array_equal(held, carve(100, CHOOSE)[0])


def test_an_attempt_sees_training_rows_only():
    """Whatever the other rows hold, not a number even, no score moves."""
    data, other = rows(), rows()
    other.inputs[1::2] = np.nan
    other.labels[1::2] = ~other.labels[1::2]
    training = Training(epochs=2, batch_size=10, flip=True)
    one, same = (
        choice.attempt(
            Trial("isdh", 8, 0.01, 0.0), of, CHOOSE, Network(), training, hyper={}, under="u"
        )
        for of in (data, other)
    )
    assert [getattr(one, name) for name in JUDGES] == [getattr(same, name) for name in JUDGES]
    assert 0 < one.map_at_all <= 1


def test_an_attempt_repeats():
    trial, training = Trial("isdh", 8, 0.01, 0.5), Training(epochs=2, batch_size=10)
    one, other = (
        choice.attempt(trial, rows(), CHOOSE, Network(), training, hyper={}, under="u")
        for _ in range(2)
    )
    assert [getattr(one, name) for name in JUDGES] == [getattr(other, name) for name in JUDGES]


def test_the_best_has_the_highest_geometric_mean_over_metrics_and_code_lengths():
    high, low = (0.5, 2.0, 2.0, 0.4), (0.6, 1.9, 2.0, 0.35)
    assert math.prod(high) > math.prod(low)
    log = [
        outcome("isdh", 12, 0.001, 0.0, *high),
        outcome("isdh", 48, 0.001, 0.0, *low),
        outcome("isdh", 12, 0.01, 0.0, *low),
        outcome("isdh", 48, 0.01, 0.0, *low),
        outcome("dhn", 12, 0.01, 0.5, *low),
        outcome("dhn", 12, 0.01, 0.0, *high),
    ]
    chosen = best(log[:4], (12, 48)) | best(log[4:], (12,))
    assert (chosen["isdh"].learning_rate, chosen["isdh"].mixup) == (0.001, 0.0)
    assert (chosen["dhn"].learning_rate, chosen["dhn"].mixup) == (0.01, 0.0)


def test_a_configuration_that_diverged_at_a_length_is_not_chosen():
    poor, good = (0.1, 0.1, 0.1, 0.1), (0.9, 2.0, 2.0, 0.9)
    log = [
        outcome("isdh", 12, 0.001, 0.0, *poor),
        outcome("isdh", 48, 0.001, 0.0, *poor),
        outcome("isdh", 12, 0.01, 0.0, *good),
        outcome("dhn", 48, 0.01, 0.0, *good),
    ]
    assert best(log, (12, 48)) == {"isdh": log[0].trial}


def test_a_line_that_is_none_of_a_log_is_named(tmp_path):
    path = tmp_path / "log.csv"
    write_log(path, [outcome("isdh", 12, 0.001, 0.0, 0.5, 2.0, 2.0, 0.4)])
    path.write_text(path.read_text() + "<<<<<<< ours\n")
    with pytest.raises(InputError, match=r"log.csv:3: no line of a log"):
        read_log(path)


def test_a_log_reads_as_it_was_written(tmp_path):
    log = [
        outcome("isdh", 12, 0.001, 0.0, 0.5, 2.0, 2.0, 0.4),
        outcome("dhn", 48, 0.0003, 0.5, 0.5, 2.0, 2.0, 0.4),
        Outcome(
            Trial("itq_cca", 8, 0.0, 0.0, (("a", 1e-4), ("b", 2.0))), "u", 0.5, 2.0, 1.0, 0.3, 1
        ),
    ]
    write_log(tmp_path / "log.csv", log)
    assert read_log(tmp_path / "log.csv") == sorted(log, key=lambda o: o.trial.method)
    assert read_log(tmp_path / "absent.csv") == []


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (100, "choose.carve=100: leaves none of 100 training rows"),
        (9, "choose.carve=9: holds out fewer than 10"),
    ],
)
def test_more_rows_held_out_than_there_are_or_hardly_any_is_refused(count, message):
    training = Training(epochs=1, batch_size=10)
    with pytest.raises(InputError, match=message):
        choice.attempt(
            Trial("isdh", 8, 0.01, 0.0),
            rows(),
            CHOOSE.model_copy(update={"carve": count}),
            Network(),
            training,
            hyper={},
            under="u",
        )


def logs() -> list[Path]:
    return sorted((ROOT / "choices").glob("*.csv"))


@pytest.mark.parametrize("log", logs(), ids=lambda log: log.stem)
def test_params_hold_what_the_committed_log_says(log):
    from isdh import params

    settings = params.load(ROOT / "params.yaml")
    choose, outcomes = settings.section(log.stem).choose, read_log(log)
    assert {outcome.trial for outcome in outcomes} == set(grid(choose, METHODS))
    for method, trial in best(outcomes, choose.bits).items():
        training = settings.training(log.stem, method)
        assert settings.hyper(log.stem, method).items() >= dict(trial.hyper).items()
        if METHODS[method].head is None:
            chosen = (training.learning_rate, training.mixup)
            assert chosen == (trial.learning_rate, trial.mixup), method


def test_rows_held_out_are_searched_among_themselves_and_each_is_a_query_once():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (23, 1), dtype=np.uint8)
    labels = rng.random((23, 3)) < 0.5
    expected = []
    for start, stop in ((0, 5), (5, 10), (10, 15), (15, 19), (19, 23)):  # parts as even as can be
        for i in range(start, stop):
            others = [j for j in range(23) if not start <= j < stop]
            one = metrics.evaluate(
                codes[[i]], labels[[i]], codes[others], labels[others], bits=8, cutoffs=(10, None)
            )
            expected.append(one.as_dict())
    found = choice.among_themselves(codes, labels, bits=8)
    assert list(found) == list(JUDGES)
    for name in JUDGES:
        assert found[name] == pytest.approx(np.mean([one[name] for one in expected]), rel=1e-12)
