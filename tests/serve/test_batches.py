"""Pictures that come together are encoded together, each getting its own code."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from isdh.serve.batches import TOGETHER, Batches


class Sums:
    """In an encoder's place: a code is the sum of the pixels and the encoder's number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.come = threading.Event()

    def codes(self, pixels: np.ndarray) -> np.ndarray:
        self.come.set()
        self.go.wait(20)
        self.sizes.append(len(pixels))
        if (pixels == 255).any():
            raise ValueError("no code of that")
        return (pixels.sum(axis=(1, 2, 3)) + self.number).astype(np.uint8)[:, None]


def picture(value: int) -> np.ndarray:
    return np.full((1, 1, 1), value, np.uint8)


@pytest.fixture
def batches() -> Iterator[Batches]:
    made = Batches()
    yield made
    made.close()


def held(batches: Batches, encoder: Sums) -> None:
    """Have the thread be busy with one picture until `go` is set."""
    encoder.go.clear()
    batches.submit(encoder, picture(0))
    assert encoder.come.wait(20)


def test_what_comes_meanwhile_is_one_batch_and_each_gets_its_own(batches):
    encoder = Sums(3)
    held(batches, encoder)
    futures = [batches.submit(encoder, picture(n)) for n in range(40)]
    encoder.go.set()
    assert [int(f.result(20)[0]) for f in futures] == [n + 3 for n in range(40)]
    assert encoder.sizes == [1, TOGETHER, TOGETHER, 40 - 2 * TOGETHER]


def test_a_lone_picture_waits_for_nobody(batches):
    assert int(batches.submit(Sums(0), picture(7)).result(20)[0]) == 7


def test_no_batch_mixes_two_models(batches):
    old, new = Sums(0), Sums(100)
    held(batches, old)
    futures = [batches.submit(old if n < 5 else new, picture(n)) for n in range(10)]
    old.go.set()
    assert [int(f.result(20)[0]) for f in futures] == [0, 1, 2, 3, 4, 105, 106, 107, 108, 109]
    assert (old.sizes, new.sizes) == ([1, 5], [5])


def test_a_fault_is_told_to_its_batch_alone(batches):
    encoder = Sums(0)
    held(batches, encoder)
    futures = [batches.submit(encoder, picture(255)) for _ in range(TOGETHER)]
    after = batches.submit(encoder, picture(1))
    encoder.go.set()
    for future in futures:
        with pytest.raises(ValueError, match="no code of that"):
            future.result(20)
    assert int(after.result(20)[0]) == 1


def test_pictures_of_those_who_have_gone_are_not_encoded(batches):
    encoder = Sums(0)
    held(batches, encoder)
    futures = [batches.submit(encoder, picture(n)) for n in range(4)]
    assert futures[1].cancel()
    encoder.go.set()
    assert [int(futures[n].result(20)[0]) for n in (0, 2, 3)] == [0, 2, 3]
    assert encoder.sizes == [1, 3]


def test_the_end_comes_after_what_has_come():
    batches, encoder = Batches(), Sums(0)
    held(batches, encoder)
    future = batches.submit(encoder, picture(9))
    encoder.go.set()
    batches.close()
    assert int(future.result(0)[0]) == 9
    with pytest.raises(RuntimeError):
        batches.submit(encoder, picture(1))
