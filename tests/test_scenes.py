import csv
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from isdh import scenes
from isdh.errors import InputError
from isdh.scenes import LABELS, Scenes, compose, write
from isdh.settings import validate

FEW = Scenes(train=60, query=20, database=40)


@pytest.fixture(scope="module")
def composed():
    return compose(Scenes())


def test_default_dataset_has_the_pinned_bytes(tmp_path):
    write(tmp_path, Scenes())
    digest = hashlib.sha256()
    paths = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    for path in paths:
        digest.update(path.relative_to(tmp_path).as_posix().encode() + b"\0" + path.read_bytes())
    assert len(paths) == 5501
    assert digest.hexdigest() == "ed3ddb789a33c674e0413e54a05a7e4ec4a2faf7b23ed98f205cd978ead2dfe3"


def test_pixels_are_pinned_apart_from_the_file_format(composed):
    """Tells a changed composition from a changed PNG writer."""
    digest = hashlib.sha256(composed.images.tobytes() + composed.labels.tobytes()).hexdigest()
    assert digest == "3e23c2547de415900ac41cbc8a9d04ef540ca89c051b13ea2c935b077a723227"


def test_shapes_and_splits_are_those_asked_for(composed):
    assert composed.images.shape == (5500, 32, 32)
    assert composed.images.dtype == np.uint8
    assert composed.labels.shape == (5500, 10)
    assert composed.labels.dtype == np.bool_
    names, first = np.unique(composed.split, return_index=True)
    assert dict(zip(names, first, strict=True)) == {"train": 0, "query": 2000, "database": 2500}


def test_no_handwriting_of_the_training_scenes_is_searched_or_asked_for(composed):
    in_train = composed.split == "train"
    used, held_out = (set(composed.sources[rows].flat) - {-1} for rows in (in_train, ~in_train))
    assert not used & held_out
    assert len(used | held_out) > 1750


def test_every_digit_gives_three_fifths_of_its_pictures_to_training(composed):
    digits = load_digits().target
    used = np.unique(composed.sources[composed.split == "train"])[1:]
    share = np.bincount(digits[used]) / np.bincount(digits)
    assert share == pytest.approx(np.full(10, 0.6), abs=0.02)


def test_labels_are_the_digits_shown_one_to_four_all_different(composed):
    digits = load_digits().target
    for row, present in zip(composed.sources, composed.labels, strict=True):
        shown = digits[row[row >= 0]].tolist()
        assert sorted(shown) == np.flatnonzero(present).tolist()
        assert 1 <= len(shown) <= 4


def test_numbers_of_digits_and_quarters_are_used_alike(composed):
    present = composed.sources >= 0
    by_number = np.bincount(present.sum(axis=1), minlength=5)[1:] / len(present)
    assert by_number == pytest.approx(np.full(4, 0.25), abs=0.03)
    assert present.mean(axis=0) == pytest.approx(np.full(4, 0.625), abs=0.03)
    assert composed.labels.mean(axis=0) == pytest.approx(np.full(10, 0.25), abs=0.03)


def test_another_seed_gives_other_scenes_and_another_division_of_the_handwriting():
    one, other = compose(FEW), compose(FEW.model_copy(update={"seed": 1}))
    assert not (one.images == other.images).all(axis=(1, 2)).any()
    used, held_out = one.sources[:60], other.sources[60:]
    assert set(used.flat) & set(held_out.flat) - {-1}


def test_scenes_of_a_split_do_not_depend_on_how_many_the_others_have():
    one, other = compose(FEW), compose(Scenes(train=90, query=20, database=55))
    rows = [composed.images[composed.split == "query"] for composed in (one, other)]
    assert (rows[0] == rows[1]).all()


@pytest.mark.parametrize("side", [8, 9, 13, 16])
def test_a_digit_is_enlarged_bilinearly_and_stands_where_it_was_put(side):
    weights = scenes._placements(8, 16, 20)
    picture = load_digits().images[7]
    enlarged = Image.fromarray(picture.astype(np.float32)).resize((side, side), Image.BILINEAR)
    want = np.zeros((20, 20))
    want[2 : 2 + side, 20 - side :] = np.asarray(enlarged)
    down, right = weights[side - 8, 2], weights[side - 8, 20 - side]
    got = down @ picture.astype(int) @ right.T / (2 * side) ** 2
    assert got == pytest.approx(want, abs=1e-4)


def test_a_scene_without_noise_is_background_plus_ink_in_the_filled_quarters():
    quiet = Scenes(train=200, query=1, database=1, noise=0.0)
    images, _, _, sources = compose(quiet)
    quarters = images.reshape(-1, 2, 16, 2, 16).swapaxes(2, 3).reshape(-1, 4, 16, 16)
    filled = quarters[sources >= 0].astype(int)
    empty = quarters[sources < 0].astype(int)
    assert np.ptp(empty, axis=(1, 2)).max() <= 24  # two slopes over half a scene
    assert empty.min() >= 8
    assert empty.max() <= 88
    assert np.ptp(filled, axis=(1, 2)).min() > 110


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_noise_has_the_deviation_asked_for(noise):
    generator = np.random.Generator(np.random.PCG64(0))
    grey = scenes._noise((50, 32, 32), noise, generator) / scenes.UNIT / 255
    assert grey.std() == pytest.approx(noise, rel=0.01)
    assert grey.mean() == pytest.approx(0, abs=noise / 50)


def test_written_pictures_are_the_composed_ones_in_the_order_of_the_table(tmp_path):
    write(tmp_path, FEW)
    with (tmp_path / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    images, labels, split, _ = compose(FEW)
    assert [row["split"] for row in rows] == split.tolist()
    read = [np.asarray(Image.open(tmp_path / row["path"])) for row in rows]
    assert (np.stack(read) == images).all()
    named = [[name in row["labels"].split(";") for name in LABELS] for row in rows]
    assert named == labels.tolist()


def test_a_killed_run_leaves_pictures_without_a_table(tmp_path, monkeypatch):
    write(tmp_path, FEW)
    save, saved = Image.Image.save, []

    def dies_at_the_tenth(image, *args, **options):
        saved.append(image)
        if len(saved) == 10:
            raise KeyboardInterrupt
        save(image, *args, **options)

    monkeypatch.setattr(Image.Image, "save", dies_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, FEW)
    assert not (tmp_path / "labels.csv").exists()


def test_writing_again_leaves_only_what_the_table_names(tmp_path):
    write(tmp_path, Scenes(train=80, query=20, database=40))
    write(tmp_path, FEW)
    with (tmp_path / "labels.csv").open(newline="") as stream:
        named = {row["path"] for row in csv.DictReader(stream)}
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("images/*")} == named


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"largest": 17}, "largest=17, size=32: want smallest <= largest <= size / 2"),
        ({"smallest": 12, "largest": 10}, "smallest <= largest"),
        ({"smallest": 7}, "smallest=7"),
        ({"size": 33}, "size=33"),
        ({"query": 0}, "query=0"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"sede": 1}, "did you mean 'seed'"),
    ],
)
def test_settings_out_of_range_are_refused_with_the_rule(values, message):
    with pytest.raises(InputError, match=message):
        validate(Scenes, values, where="params.yaml: generate")


def test_the_largest_scenes_fit_the_arithmetic():
    images, _, _, sources = compose(
        Scenes(train=3, query=1, database=1, size=128, smallest=64, largest=64, noise=0)
    )
    assert images.shape == (5, 128, 128)
    assert ((images > 200).sum(axis=(1, 2)) > 100 * (sources >= 0).sum(axis=1)).all()


def test_importing_the_module_imports_nothing_heavy():
    code = "import sys, isdh.scenes; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"sklearn", "PIL", "pandas", "torch", "scipy"} & set(loaded.stdout.split())
