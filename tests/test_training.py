from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from isdh import networks, training
from isdh.encoding import encode
from isdh.errors import InputError
from isdh.methods import METHODS, build, isdh
from isdh.settings import Training
from isdh.training import LARGEST_SHARE, Mix, TrainingRows, fit, rate_factor, shifted

BITS = 8
CPU = torch.device("cpu")


def images(count: int = 40) -> TrainingRows:
    rng = np.random.default_rng(0)
    labels = rng.random((count, 4)) < 0.4
    pixels = rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
    pixels[:, :4, :4, 0] = labels.argmax(1)[:, None, None] * 60
    return TrainingRows(pixels, labels, np.arange(0, count, 2))


def features(count: int = 40) -> TrainingRows:
    rng = np.random.default_rng(0)
    labels = rng.random((count, 4)) < 0.4
    values = (labels @ rng.normal(size=(4, 10)) + rng.normal(size=(count, 10))).astype(np.float16)
    values[:, 9] = 3  # a feature that never varies
    rows = np.arange(0, count, 2)
    return TrainingRows(values, labels, rows, mirrored=values[rows] + np.float16(0.1))


def network_for(data: TrainingRows, **settings) -> networks.Network:
    torch.manual_seed(0)
    backbone = "convnet" if data.inputs.ndim == 4 else None
    shape = data.inputs.shape[1:]
    return networks.build(input_shape=shape, bits=BITS, backbone=backbone, **settings)


def train(data, settings, *, name="isdh", checkpoint=None, stop_after=None, seed=0):
    network = network_for(data, batch_norm=True, dropout=0.2)
    method = build(name, bits=BITS, num_classes=4)
    records = []
    run = fit(network, method, data, settings, seed=seed, device=CPU, checkpoint=checkpoint)
    for record in run:
        records.append(record)
        if stop_after == len(records):
            break
    return network, records


def losses(records):
    return [record["loss"] for record in records]


def same_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("make", [images, features])
@pytest.mark.parametrize("name", list(METHODS))
def test_a_run_resumed_from_its_checkpoint_equals_an_undisturbed_one(
    tmp_path, monkeypatch, make, name
):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    data, settings = make(), Training(epochs=4, batch_size=5, flip=True, warmup=0.2, mixup=0.5)
    whole, records = train(data, settings, name=name)
    checkpoint = tmp_path / "checkpoint.pt"
    train(data, settings, name=name, checkpoint=checkpoint, stop_after=2)
    resumed, again = train(data, settings, name=name, checkpoint=checkpoint)
    assert [record.get("loss") for record in again] == [record.get("loss") for record in records]
    assert same_weights(whole, resumed)


def test_the_checkpoint_keeps_the_records_of_epochs_done(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    settings, checkpoint = Training(epochs=3, batch_size=5), tmp_path / "checkpoint.pt"
    _, first = train(features(), settings, checkpoint=checkpoint, stop_after=2)
    _, again = train(features(), settings, checkpoint=checkpoint)
    assert again[:1] == first[:1]  # timestamps included: MLflow gets no point twice


def test_seeds_differ_and_the_same_seed_repeats():
    settings = Training(epochs=2, batch_size=5)
    a, b, c = (train(features(), settings, seed=seed)[0] for seed in (0, 0, 1))
    assert same_weights(a, b)
    assert not same_weights(a, c)


def test_features_are_standardised_on_training_rows_only():
    data = features()
    data.inputs[1::2] = 1000  # rows that are not trained on
    network, _ = train(data, Training(epochs=1, batch_size=5))
    rows = data.inputs[data.rows].astype(np.float64)
    assert np.allclose(network.normalise.mean, rows.mean(0), rtol=1e-5)
    assert np.allclose(network.normalise.std[:9], rows.std(0)[:9], rtol=1e-5)
    assert network.normalise.std[9] == 1


def test_training_lowers_the_loss():
    _, records = train(features(), Training(epochs=30, batch_size=10, learning_rate=0.03))
    assert losses(records)[-1] < 0.9 * losses(records)[0]


def test_fewer_rows_than_a_batch_is_refused():
    with pytest.raises(InputError, match=r"batch_size=64: only 20 training rows; lower it"):
        train(features(), Training(batch_size=64))


def test_a_loss_that_is_not_finite_ends_the_training():
    data = features()
    data.inputs[0] = np.float16("nan")
    with pytest.raises(InputError, match=r"loss=nan in epoch 1.*lower training.learning_rate"):
        train(data, Training(epochs=1, batch_size=5))


def test_backbone_learns_at_its_own_rate():
    data = images()
    still = network_for(data, batch_norm=True, dropout=0.2)
    frozen, _ = train(data, Training(epochs=1, batch_size=5, backbone_rate=0.0))
    parameters = zip(still.backbone.parameters(), frozen.backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parameters)
    head = zip(still.head.parameters(), frozen.head.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in head)


def test_a_method_s_parameters_learn_at_the_rates_it_names():
    class Rated(isdh.ISDH):
        def __init__(self):
            super().__init__(bits=BITS, num_classes=4)
            self.proxies = torch.nn.Linear(2, 2)
            self.scale = torch.nn.Parameter(torch.ones(()))

        def rates(self):
            return {"proxies": 5.0}

    settings = Training(learning_rate=0.01, backbone_rate=0.5)
    method = Rated()
    optimizer = training._optimizer(network_for(images()), method, settings)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(method.proxies.weight)] == rates[id(method.proxies.bias)] == 0.05
    assert rates[id(method.scale)] == 0.01
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.005, 0.01, 0.05]


def test_views_are_the_same_rows_augmented_anew():
    seen = []

    class Seeing(isdh.ISDH):
        views = 2

        def forward(self, outputs, labels, batch=None):
            seen.append((outputs.detach(), *(view.detach() for view in batch.views)))
            return super().forward(outputs, labels, batch)

    data, method = features(), Seeing(bits=BITS, num_classes=4)
    settings = Training(epochs=1, batch_size=20, flip=True)
    list(fit(network_for(data), method, data, settings, seed=0, device=CPU))
    ((outputs, *views),) = seen
    assert len(views) == 2
    for view in views:
        same = (view == outputs).all(dim=1)  # rows that were mirrored in both or in neither
        assert 0 < same.sum() < len(outputs)


def test_mixup_mixes_inputs_and_labels_by_the_same_shares():
    settings = Training(mixup=0.5)
    mix = Mix.draw(1000, settings, torch.Generator().manual_seed(0))
    eye = torch.eye(1000, dtype=torch.bool)
    mixed = mix(eye)
    assert torch.allclose(mixed.sum(dim=1), torch.ones(1000))
    assert torch.equal(mixed, mix(eye.to(torch.float16)))
    beta = scipy.stats.beta(0.2, 0.2)
    unseen = 2 * beta.cdf(1 - LARGEST_SHARE)
    alone = (mix.shares == 1).float().mean()
    assert alone == pytest.approx(0.5 + 0.5 * unseen, abs=0.05)
    assert mix.shares.min() >= 0.5
    assert mix.shares[mix.shares < 1].max() <= LARGEST_SHARE
    even = (mix.shares < 0.75).float().mean()
    assert even == pytest.approx(0.5 * 2 * (0.5 - beta.cdf(0.25)), abs=0.05)


def test_all_methods_see_the_same_batches(monkeypatch):
    """Whether further views are asked for or not; mirrored and mixed alike."""
    settings = Training(epochs=2, batch_size=5, flip=True, mixup=0.5)
    seen = {}
    for name in ("isdh", "dhd", "dpsh"):
        batches = seen.setdefault(name, [])
        gather = training._Run.gather

        def spy(run, rows, generator, batches=batches, gather=gather):
            inputs = gather(run, rows, generator)
            batches.append((generator.initial_seed(), rows, inputs.clone()))
            return inputs

        with monkeypatch.context() as patch:
            patch.setattr(training._Run, "gather", spy)
            train(features(), settings, name=name)
    own = [batch for batch in seen["dhd"] if batch[0] in {other[0] for other in seen["isdh"]}]
    for batches in (own, seen["dpsh"]):
        assert len(batches) == len(seen["isdh"]) == 8
        for (_, rows, inputs), (_, same_rows, same) in zip(batches, seen["isdh"], strict=True):
            assert torch.equal(rows, same_rows)
            assert torch.equal(inputs, same)


@pytest.mark.parametrize(
    ("settings", "step", "factor"),
    [
        (Training(schedule="constant"), 700, 1.0),
        (Training(schedule="staircase"), 499, 1.0),
        (Training(schedule="staircase"), 500, 0.5),
        (Training(schedule="staircase"), 1499, 0.25),
        (Training(schedule="cosine"), 0, 1.0),
        (Training(schedule="cosine", warmup=0.1), 49, 0.5),
        (Training(schedule="cosine", warmup=0.1), 100, 1.0),
    ],
)
def test_learning_rate_follows_its_schedule(settings, step, factor):
    assert rate_factor(step, 1000, settings) == pytest.approx(factor)


def test_shifted_images_are_translated_with_edges_repeated():
    picture = torch.arange(25, dtype=torch.uint8).reshape(1, 5, 5, 1)
    seen = {
        tuple(shifted(picture, 1, torch.Generator().manual_seed(i)).flatten().tolist())
        for i in range(60)
    }
    padded = np.pad(picture[0, :, :, 0].numpy(), 1, mode="edge")
    offsets = {
        tuple(padded[y : y + 5, x : x + 5].ravel().tolist()) for y in range(3) for x in range(3)
    }
    assert seen == offsets


def test_codes_do_not_depend_on_how_many_rows_are_encoded():
    data = images(600)
    network = network_for(data, batch_norm=True)
    whole = encode(network, data.inputs, device=CPU)
    assert whole.shape == (600, 1)
    assert np.array_equal(encode(network, data.inputs[:256], device=CPU), whole[:256])
