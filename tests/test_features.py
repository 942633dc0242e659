from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from isdh.backbones import IMAGENET_MEAN, IMAGENET_STD, fetch, pretrained, untrained
from isdh.errors import InputError
from isdh.features import FeatureBackbone, extract, normalise
from isdh.store import Pictures

SIZE = 64
ROWS = 40  # two batches of 16 and one of 8


def save_weights(name: str, path: Path, size: int = SIZE, **options: Any) -> Path:
    """A file of random weights; BatchNorm's statistics are those of noise: no value dies out."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None, **options)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
        network(normalised(name, noise(8, size)))
    torch.save(network.state_dict(), path)
    return path


def noise(count: int, size: int) -> np.ndarray:
    """Pictures of it."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def normalised(name: str, images: np.ndarray) -> torch.Tensor:
    """Pictures as torchvision's transforms give them to the network."""
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(preset.mean, preset.std),
        ]
    )
    return torch.stack([transform(image) for image in images])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights("squeezenet1_1", tmp_path_factory.mktemp("weights") / "squeezenet.pth")


@pytest.fixture(scope="module")
def backbone(weights: Path) -> FeatureBackbone:
    return FeatureBackbone.load("squeezenet1_1", weights)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    root = tmp_path_factory.mktemp("raw")
    generator = np.random.default_rng(0)
    names = [f"{row}.png" for row in range(ROWS)]
    for name in names:
        pixels = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    digests = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names]
    return Pictures(root, names, digests, SIZE)


def plain_features(name: str, weights: Path, images: np.ndarray, **options: Any) -> torch.Tensor:
    """What torchvision's own model and transforms give, without any of our short cuts."""
    network = torchvision.models.get_model(name, weights=None, **options)
    network.load_state_dict(torch.load(weights, weights_only=True))
    last = next(part for part in ("classifier", "heads", "fc") if hasattr(network, part))
    layers = getattr(network, last)
    if isinstance(layers, nn.Sequential):
        layers[1 if name.startswith("squeezenet") else -1] = nn.Identity()
    else:
        setattr(network, last, nn.Identity())
    with torch.inference_mode():
        return network.eval()(normalised(name, images))


def test_row_i_holds_the_features_of_picture_i(backbone, weights, pictures, tmp_path):
    extract(backbone, pictures, tmp_path / "inputs.npy")
    features = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    assert features.dtype == np.float16
    expected = plain_features("squeezenet1_1", weights, pictures.pixels(range(ROWS))).numpy()
    assert features.shape == expected.shape == (ROWS, 512)
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=1e-4)


def test_folding_batch_normalisation_changes_no_feature(tmp_path):
    path = save_weights("mobilenet_v2", tmp_path / "mobilenet_v2.pth")
    state = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for key, value in state.items():
        if key.endswith(("running_mean", "running_var")):
            value.add_(torch.rand(value.shape, generator=generator) / 4)
    torch.save(state, path)
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    features = FeatureBackbone.load("mobilenet_v2", path).features(images)
    expected = plain_features("mobilenet_v2", path, images).numpy()
    assert features.shape == (4, 1280)
    np.testing.assert_allclose(features, expected, rtol=5e-3, atol=1e-4 * expected.max())


def test_mirrored_features_are_those_of_mirrored_pictures(backbone, pictures, tmp_path):
    extract(backbone, pictures, tmp_path / "mirrored.npy", mirrored=True)
    flipped = np.ascontiguousarray(pictures.pixels(range(16))[:, :, ::-1])
    mirrored = np.load(tmp_path / "mirrored.npy")
    np.testing.assert_array_equal(mirrored[:16], backbone.features(flipped))
    extract(backbone, pictures, tmp_path / "inputs.npy")
    assert (mirrored != np.load(tmp_path / "inputs.npy")).any(axis=1).all()


def test_features_do_not_depend_on_the_number_of_threads(backbone, pictures, tmp_path):
    for threads in (1, 3):
        extract(backbone, pictures, tmp_path / f"{threads}.npy", threads=threads)
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "3.npy").read_bytes()


def test_features_of_a_row_do_not_depend_on_the_other_rows(backbone, pictures, tmp_path):
    order = np.random.default_rng(1).permutation(ROWS)[:30]
    shuffled = Pictures(
        pictures.root,
        [pictures.paths[row] for row in order],
        [pictures.digests[row] for row in order],
        SIZE,
    )
    extract(backbone, pictures, tmp_path / "all.npy")
    extract(backbone, shuffled, tmp_path / "some.npy")
    np.testing.assert_array_equal(
        np.load(tmp_path / "some.npy"), np.load(tmp_path / "all.npy")[order]
    )


def test_one_image_by_itself_has_the_features_of_the_dataset_up_to_rounding(
    backbone, pictures, tmp_path
):
    extract(backbone, pictures, tmp_path / "inputs.npy")
    alone = backbone.features(pictures.pixels(range(3, 4)))
    np.testing.assert_allclose(alone[0], np.load(tmp_path / "inputs.npy")[3], rtol=2e-3, atol=1e-4)


def test_no_pictures_make_an_empty_array(backbone, tmp_path):
    extract(backbone, Pictures(tmp_path, [], [], SIZE), tmp_path / "mirrored.npy")
    assert np.load(tmp_path / "mirrored.npy").shape == (0, 512)


def test_read_only_and_mirrored_arrays_are_read(backbone):
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    expected = backbone.features(images)
    images.setflags(write=False)
    np.testing.assert_array_equal(backbone.features(images), expected)
    np.testing.assert_array_equal(backbone.features(images[:, :, ::-1][:, :, ::-1]), expected)


def test_neither_random_state_nor_thread_count_is_touched(weights, pictures, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    extract(FeatureBackbone.load("squeezenet1_1", weights), pictures, tmp_path / "inputs.npy")
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_pixels_are_normalised_as_torchvision_does():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    transform = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = transform(torchvision.transforms.functional.to_tensor(pixels[0]))
    torch.testing.assert_close(normalise(torch.from_numpy(pixels))[0], expected)


def test_missing_weights_say_where_they_are_and_under_which_licence(tmp_path):
    with pytest.raises(InputError) as error:
        FeatureBackbone.load("mobilenet_v2", tmp_path / "mobilenet_v2.pth")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'mobilenet_v2.pth'}: no such file")
    assert "https://download.pytorch.org/models/mobilenet_v2" in text
    assert "BSD-3-Clause" in text


def test_an_unknown_backbone_names_the_nearest(weights):
    with pytest.raises(InputError, match="unknown backbone 'mobilnet_v2', did you mean 'mobilenet"):
        FeatureBackbone.load("mobilnet_v2", weights)


def test_weights_of_another_backbone_are_refused(weights):
    with pytest.raises(InputError, match=r"not the weights of squeezenet1_0: .*Missing key"):
        FeatureBackbone.load("squeezenet1_0", weights)


@pytest.mark.parametrize("cut", [0, 100, 10_000])
def test_a_cut_weights_file_is_refused(weights, tmp_path, cut):
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"cut.pth: not a file of weights"):
        FeatureBackbone.load("squeezenet1_1", tmp_path / "cut.pth")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_weights_file_does_not_run(tmp_path):
    torch.save({"x": Trap(tmp_path / "ran")}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match="not a file of weights"):
        FeatureBackbone.load("squeezenet1_1", tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_a_list_of_weights_is_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="not the weights of squeezenet1_1"):
        FeatureBackbone.load("squeezenet1_1", tmp_path / "list.pth")


def test_a_size_that_the_backbone_cannot_read_is_refused(backbone, pictures, tmp_path):
    small = Pictures(pictures.root, pictures.paths, pictures.digests, size=4)
    with pytest.raises(InputError, match="size=4: squeezenet1_1 cannot read it"):
        extract(backbone, small, tmp_path / "inputs.npy")


def test_features_that_float16_cannot_hold_are_refused(weights, pictures, tmp_path):
    state = torch.load(weights, weights_only=True)
    state["features.0.weight"].mul_(1e9)
    torch.save(state, tmp_path / "large.pth")
    backbone = FeatureBackbone.load("squeezenet1_1", tmp_path / "large.pth")
    with pytest.raises(InputError, match="beyond float16"):
        extract(backbone, pictures, tmp_path / "inputs.npy")
    assert not (tmp_path / "inputs.npy").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_features_on_cuda_are_those_of_the_cpu_up_to_bfloat16(weights, pictures, tmp_path):
    for device in ("cpu", "cuda"):
        backbone = FeatureBackbone.load("squeezenet1_1", weights, device)
        extract(backbone, pictures, tmp_path / f"{device}.npy")
    cpu, cuda = (np.load(tmp_path / f"{d}.npy").astype(np.float32) for d in ("cpu", "cuda"))
    assert np.abs(cpu - cuda).max() <= 0.05 * np.abs(cpu).max()


def test_real_weights_on_real_photos_give_torchvisions_features():
    if "ISDH_TEST_DATA" not in os.environ:
        pytest.skip("ISDH_TEST_DATA names no folder with real weights and photos")
    root = Path(os.environ["ISDH_TEST_DATA"])
    weights = root / "weights" / "mobilenet_v2.pth"
    images = []
    with tarfile.open(root / "data" / "mirflickr25k-128.part1.tar") as archive:
        for member in archive:
            if member.name.endswith(".jpg") and len(images) < 16:
                images.append(
                    np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())))
                )
    features = FeatureBackbone.load("mobilenet_v2", weights).features(np.stack(images))
    expected = plain_features("mobilenet_v2", weights, np.stack(images)).numpy()
    assert features.shape == (16, 1280)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def compiled(weights: Path) -> FeatureBackbone:
    backbone = FeatureBackbone.load("squeezenet1_1", weights)
    backbone.compile(SIZE)
    return backbone


def test_compiled_features_are_those_of_torch_but_for_rounding(compiled, weights, pictures):
    images = pictures.pixels(range(ROWS))
    expected = plain_features("squeezenet1_1", weights, images).numpy()
    np.testing.assert_allclose(compiled.features(images), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "vit_b_32"])
def test_networks_of_each_kind_can_be_compiled(name, tmp_path):
    size = 224 if name == "vit_b_32" else SIZE
    path = save_weights(name, tmp_path / "weights.pth", size)
    backbone = FeatureBackbone.load(name, path)
    backbone.compile(size)
    expected = plain_features(name, path, noise(3, size)).numpy()
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(
        backbone.features(noise(3, size)), expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max()
    )


# Builders of networks set these beside the weights that torchvision publishes.
INCEPTION = {"transform_input": True, "init_weights": False}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("googlenet", INCEPTION),
        ("googlenet", {**INCEPTION, "aux_logits": False}),
        ("efficientnet_v2_l", {}),
    ],
)
def test_networks_trained_on_pixels_from_minus_1_to_1_get_such(name, options, tmp_path):
    path = save_weights(name, tmp_path / "weights.pth", **options)
    expected = plain_features(name, path, noise(2, SIZE), **options).numpy()
    features = FeatureBackbone.load(name, path).features(noise(2, SIZE))
    np.testing.assert_allclose(features, expected, rtol=5e-3, atol=1e-3 * np.abs(expected).max())


def test_all_other_networks_are_trained_on_pixels_normalised_as_imagenets():
    models = torchvision.models
    presets = {
        name: models.get_model_weights(name).DEFAULT.transforms()
        for name in models.list_models(module=models)
    }
    other = {name for name, preset in presets.items() if preset.mean != list(IMAGENET_MEAN)}
    other |= {name for name, preset in presets.items() if preset.std != list(IMAGENET_STD)}
    assert other == {"efficientnet_v2_l"}


def test_files_with_names_of_old_versions_are_read(tmp_path):
    path = save_weights("densenet121", tmp_path / "new.pth")
    state = {
        re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value
        for key, value in torch.load(path, weights_only=True).items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "old.pth")
    old, new = (
        FeatureBackbone.load("densenet121", tmp_path / f"{age}.pth").features(noise(1, SIZE))
        for age in ("old", "new")
    )
    np.testing.assert_array_equal(old, new)


def test_a_vision_transformer_reads_the_size_of_its_weights_alone(tmp_path):
    path = save_weights("vit_b_32", tmp_path / "weights.pth", image_size=SIZE)
    backbone = FeatureBackbone.load("vit_b_32", path)
    expected = plain_features("vit_b_32", path, noise(2, SIZE), image_size=SIZE).numpy()
    np.testing.assert_allclose(backbone.features(noise(2, SIZE)), expected, rtol=2e-3, atol=1e-3)
    assert backbone.width(SIZE) == 768
    with pytest.raises(InputError, match=r"^size=224: vit_b_32 .* of 64 pixels alone; set size: 6"):
        backbone.width(224)
    again = untrained("vit_b_32")
    again.load_state_dict(pretrained("vit_b_32", path).state_dict())  # as a trained one is read
    assert again.image_size == SIZE


def test_a_compiled_row_has_the_same_bits_whatever_stands_beside_it(compiled, pictures):
    images = pictures.pixels(range(ROWS))
    together = compiled.features(images)
    assert all((compiled.features(images[[i]])[0] == together[i]).all() for i in range(ROWS))


def test_weights_that_cannot_be_fetched_say_where_they_are(monkeypatch, tmp_path):
    published = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.value
    monkeypatch.setattr(published, "url", f"file://{tmp_path}/squeezenet1_1-00000000.pth")
    with pytest.raises(InputError, match=rf"download torchvision's.* from file://{tmp_path}.*fail"):
        fetch("squeezenet1_1", tmp_path / "weights" / "squeezenet1_1.pth")
    assert list((tmp_path / "weights").iterdir()) == []


def test_weights_of_an_unknown_network_are_not_looked_for(tmp_path):
    with pytest.raises(InputError, match="did you mean 'squeezenet1_1'"):
        fetch("squezenet1_1", tmp_path / "x.pth")
