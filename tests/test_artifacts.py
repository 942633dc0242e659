from __future__ import annotations

import json

import numpy as np
import pytest

from isdh.artifacts import (
    Cell,
    Workspace,
    current_scores,
    read_array,
    read_codes,
    read_json,
    replacing,
    verify,
    write_array,
    write_codes,
    write_json,
)
from isdh.errors import InputError

CELL = Cell("shapes", "isdh", 12, 0)


def test_a_body_that_raises_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), replacing(path) as stream:
        stream.write("no bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_codes_come_back_and_an_altered_bit_is_refused(tmp_path):
    codes = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    write_codes(tmp_path, codes, bits=12, weights_sha256="w")
    assert np.array_equal(read_codes(tmp_path, bits=12, rows=2), codes)
    path = tmp_path / "codes.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"codes\.npy: sha256 .* want .*dvc"):
        read_codes(tmp_path, bits=12)


@pytest.mark.parametrize(
    ("wish", "message"),
    [({"bits": 16}, "codes of 12 bits, want 16"), ({"bits": 12, "rows": 3}, "2 rows, want 3")],
)
def test_codes_of_another_length_or_number_are_refused(tmp_path, wish, message):
    codes = np.zeros((2, 2), dtype=np.uint8)
    write_codes(tmp_path, codes, bits=12, weights_sha256="w")
    with pytest.raises(InputError, match=message):
        read_codes(tmp_path, **wish)


def test_what_is_missing_or_of_another_kind_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "a.npy"
    for read in (lambda: read_array(path, dtype=np.uint8), lambda: verify(path, "x")):
        with pytest.raises(InputError, match=r"no such file; run `dvc repro`"):
            read()
    write_array(path, np.zeros(3, dtype=np.float32))
    with pytest.raises(InputError, match="dtype float32, want uint8"):
        read_array(path, dtype=np.uint8)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a NumPy array"):
        read_array(path, dtype=np.uint8)
    path.write_text("[1]")
    with pytest.raises(InputError, match="want a JSON object, found list"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_json(path)


def test_json_is_refused_where_a_number_is_none(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_scores_count_only_with_the_model_that_they_are_of(tmp_path):
    workspace = Workspace(tmp_path)
    assert current_scores(workspace, CELL) is None
    write_json(workspace.model(CELL) / "model.json", {"weights_sha256": "new"})
    path = workspace.scores(CELL)
    write_json(path, {"map_at_all": 0.5})
    for digest, scores in (("old", None), ("new", {"map_at_all": 0.5})):
        with replacing(path.with_suffix(".npz")) as stream:
            np.savez(stream, allow_pickle=False, weights_sha256=digest)
        assert current_scores(workspace, CELL) == scores


@pytest.mark.parametrize("text", ["digits/isdh-48-0", "digits-isdh-48-0"])
def test_a_cell_is_read_from_both_spellings(text):
    assert Cell.parse(text) == Cell("digits", "isdh", 48, 0)
    assert Cell.parse(text).address("train") == "train@digits-isdh-48-0"


@pytest.mark.parametrize("text", ["digits", "digits/isdh-48", "digits/ISDH-48-0", "a/b/isdh-1-0"])
def test_a_cell_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="want <dataset>/<method>-<bits>-<seed>"):
        Cell.parse(text)


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
