from __future__ import annotations

import numpy as np
import pytest

from isdh import protocols
from isdh.datasets import options
from isdh.errors import InputError
from isdh.protocols import PROTOCOLS, Protocol

ALL = [(collection, name) for collection, known in PROTOCOLS.items() for name in known]
# trained on, asked for, searched, and whether the searched images hold those trained on
STATED = {
    ("mirflickr", "paper"): (4_000, 1_000, 19_581, False),
    ("mirflickr", "hyp2"): (4_000, 1_000, 19_581, False),
    ("mirflickr", "deephash"): (4_000, 1_000, 20_000, False),
    ("nuswide", "hyp2"): (10_500, 2_100, 193_734, True),
    ("nuswide", "deephash"): (10_500, 2_100, 193_734, True),
    ("voc2007", "hyp2"): (5_011, 4_952, 5_011, True),
    ("voc2012", "paper"): (4_000, 1_000, 12_125, False),
    ("voc2012", "hyp2"): (5_717, 5_823, 5_717, True),
    ("voc2012", "deephash"): (4_000, 1_000, 6_540, False),
}
# images that are drawn from: all, or those with a label
POOLS = {
    ("mirflickr", "paper"): 24_581,
    ("mirflickr", "hyp2"): 24_581,
    ("mirflickr", "deephash"): 25_000,
    ("nuswide", "hyp2"): 195_834,
    ("nuswide", "deephash"): 195_834,
    ("voc2007", "hyp2"): 9_963,
    ("voc2012", "paper"): 17_125,
    ("voc2012", "hyp2"): 11_540,
    ("voc2012", "deephash"): 11_540,
}


def test_counts_are_those_of_the_sources():
    found = {
        (collection, name): (p.train, p.query, p.database, p.also_database)
        for collection, known in PROTOCOLS.items()
        for name, p in known.items()
    }
    assert found == STATED


@pytest.mark.parametrize(("collection", "name"), ALL)
def test_the_parts_of_a_protocol_make_up_its_pool(collection, name):
    protocol = PROTOCOLS[collection][name]
    assert sum(protocol.rows.values()) == POOLS[collection, name]
    assert POOLS[collection, name] <= protocol.images
    assert set(protocol.parts) == ({"train", "query"} if protocol.rule == "lists" else set())
    assert protocol.source


def split(protocol: Protocol, labels: np.ndarray, *, seed: int = 0, available=None) -> np.ndarray:
    rows, columns = labels.shape
    return protocols.split(
        protocol,
        labels,
        names=[f"label {column}" for column in range(columns)],
        available=np.ones(rows, dtype=bool) if available is None else available,
        generator=np.random.default_rng(seed),
    )


def made(**changes) -> Protocol:
    values = {"images": 100, "train": 30, "query": 20, "database": 50, "source": "a test"}
    return Protocol(**{**values, **changes})


@pytest.fixture
def labels() -> np.ndarray:
    """100 rows, 4 labels; each tenth row has none, some have two and three."""
    generator = np.random.default_rng(0)
    matrix = generator.random((100, 4)) < 0.3
    matrix[np.arange(100), np.arange(100) % 4] = True
    matrix[::10] = False
    return matrix


def test_a_random_draw_leaves_out_unlabelled_images_or_not_as_the_protocol_says(labels):
    drawn = split(made(), labels)
    assert {part: int((drawn == part).sum()) for part in ("train", "query")} == (
        {"train": 30, "query": 20}
    )
    assert set(drawn[::10]) == {"database"}
    seeds = [split(made(pool="all"), labels, seed=seed)[::10] for seed in range(5)]
    assert {part for drawn in seeds for part in drawn} == {"train", "query", "database"}


@pytest.mark.parametrize("rule", ["random", "first_come"])
def test_images_whose_picture_is_not_there_are_not_drawn(labels, rule):
    available = np.arange(100) % 3 > 0
    drawn = split(made(rule=rule, train=12, query=8), labels, available=available)
    assert set(drawn[~available]) == {"database"}
    assert (drawn == "train").sum() == 12
    assert (drawn == "query").sum() == 8


@pytest.mark.parametrize("rule", ["random", "first_come"])
def test_a_draw_depends_on_the_seed_alone(labels, rule):
    protocol = made(rule=rule, train=12, query=8)
    assert np.array_equal(split(protocol, labels), split(protocol, labels))
    assert (split(protocol, labels) != split(protocol, labels, seed=1)).any()


def slow_first_come(labels, order, train, query):
    """The published script's rule, written out: an image goes to its first label with a place."""
    train_left = [train] * labels.shape[1]
    query_left = [query] * labels.shape[1]
    parts = ["database"] * len(labels)
    for row in order:
        for column in range(labels.shape[1]):
            if not labels[row, column]:
                continue
            if train_left[column] > 0:
                train_left[column] -= 1
                parts[row] = "train"
                break
            if query_left[column] > 0:
                query_left[column] -= 1
                parts[row] = "query"
                break
    return parts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("train", "query"), [(5, 3), (1, 1), (12, 6), (40, 40)])
def test_first_come_equals_the_rule_written_out(labels, seed, train, query):
    each = {"train": train, "query": query}
    drawn, wanting = protocols.first_come(labels, each, generator=np.random.default_rng(seed))
    order = np.random.default_rng(seed).permutation(len(labels))
    assert drawn.tolist() == slow_first_come(labels, order, train, query)
    assert wanting.any() == ((drawn != "database").sum() < 4 * (train + query))


def test_first_come_fills_training_places_before_query_places():
    labels = np.ones((6, 1), dtype=bool)
    each = {"train": 2, "query": 3}
    drawn, wanting = protocols.first_come(labels, each, generator=np.random.default_rng(0))
    order = np.random.default_rng(0).permutation(6)
    assert drawn[order].tolist() == ["train"] * 2 + ["query"] * 3 + ["database"]
    assert not wanting.any()


def test_too_few_images_are_refused_and_the_labels_named(labels):
    with pytest.raises(InputError, match=r"train=80, query=20: together they must leave"):
        split(made(train=80), labels)
    labels[:, 2] = False
    labels[:3, 2] = True
    protocol = made(rule="first_come", train=12, query=8)
    with pytest.raises(InputError, match=r"few images: 'label 2'; .* 3 training images and 2 quer"):
        split(protocol, labels)


def settled(**source):
    return options({"reader": "mirflickr", **source}, where="source")


def refused(**source) -> str:
    with pytest.raises(InputError) as error:
        options({"reader": "mirflickr", **source}, where="source")
    return str(error.value)


def test_without_a_protocol_mirflickr_is_split_as_ever():
    chosen = settled()
    assert (chosen.labels, chosen.lists, chosen.protocol) == ("all", None, None)
    assert (chosen.train, chosen.query, chosen.seed, chosen.also_database) == (4000, 1000, 0, False)


def test_a_protocol_settles_the_options_of_its_reader():
    chosen = options({"reader": "voc", "protocol": "hyp2", "year": 2007}, where="source")
    assert (chosen.train, chosen.query, chosen.also_database) == (5011, 4952, True)
    assert (chosen.images, chosen.difficult) == ("main", True)
    chosen = options({"reader": "voc", "protocol": "paper"}, where="source")
    assert (chosen.images, chosen.difficult, chosen.also_database) == ("all", False, False)
    assert settled(protocol="deephash", seed=7).seed == 7


def test_an_option_that_says_what_the_protocol_says_may_stand():
    assert settled(protocol="paper", train=4000, also_database=False).query == 1000
    assert settled(protocol="paper", train=None, query=None).train == 4000


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            {"protocol": "paper", "train": 5, "query": 1000},
            "protocol='paper' has train=4000, not 5; remove one of the two",
        ),
        ({"protocol": "paper", "also_database": True}, "has also_database=False, not True"),
        ({"protocol": "hyp2", "labels": "potential"}, "has labels='all', not 'potential'"),
        (
            {"protocol": "papr"},
            "unknown protocol of mirflickr 'papr', did you mean 'paper'? known: deephash, hyp2, ",
        ),
        (
            {"reader": "nuswide", "protocol": "paper"},
            "unknown protocol of nuswide 'paper'. known: deephash, hyp2",
        ),
        ({"reader": "nuswide", "protocol": "hyp2", "labels": 81}, "has labels=21, not 81"),
        (
            {"reader": "voc", "year": 2007, "protocol": "deephash"},
            "unknown protocol of voc2007 'deephash'. known: hyp2",
        ),
        ({"reader": "voc", "protocol": "hyp2", "seed": 1}, "'hyp2' draws nothing; remove seed"),
        ({"reader": "voc", "year": 2010, "protocol": "hyp2"}, "year=2010: input should be 2007"),
        ({"reader": "coco", "protocol": "hyp2"}, "none is known for coco; give train, query and"),
        ({"protocol": 3}, "protocol=3: input should be a valid string"),
        ({"lists": "lists", "seed": 3, "train": 4}, "lists says it all: remove seed, train"),
        (
            {"reader": "voc"},
            "no way to split; give protocol (deephash, hyp2, paper), lists, or both train and",
        ),
        ({"reader": "coco", "train": 5}, "no way to split; give lists, or both train and query"),
        ({"train": 0}, "train=0: input should be greater than or equal to 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(source, problem):
    assert problem in refused(**source)


def test_lists_may_stand_beside_a_protocol():
    chosen = settled(lists="lists", protocol="paper")
    assert chosen.lists == "lists"
    assert chosen.published is PROTOCOLS["mirflickr"]["paper"]
