"""`isdh export`: what other engines load is the collection, bit for bit."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import psycopg2
import pytest
from qdrant_client import QdrantClient, models

from isdh import cli, codes, params, search
from isdh.artifacts import Workspace, read_json, sha256
from isdh.errors import InputError
from isdh.export import ENGINES, export
from isdh.index import HammingIndex
from isdh.search import Pair
from tests import searched
from tests.tracking import servers

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return searched.make(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def pair(made: Workspace) -> Pair:
    settings = params.load(made.root / "params.yaml")
    return search.load(made, settings, search.choose(made, settings))


@pytest.fixture(scope="module")
def stored(pair: Pair) -> np.ndarray:
    """The codes of the items."""
    return pair.collection.codes[pair.collection.searched]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    if not servers.binaries():
        pytest.skip("PostgreSQL is not installed: no initdb")
    with servers.postgres() as address:
        yield address


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def as_items(pair: Pair) -> list[dict]:
    found = pair.collection
    return [
        {
            "item": item,
            "image": found.images[row],
            "path": str(found.files[row]),
            "labels": found.labels_of(row),
        }
        for item, row in enumerate(found.searched.tolist())
    ]


def repacked(bits: list[list[int]]) -> np.ndarray:
    """0/1, bit 0 first, as packed codes, by arithmetic."""
    width = -(-len(bits[0]) // 8)
    numbers = [sum(bit << place for place, bit in enumerate(row)) for row in bits]
    rows = [list(number.to_bytes(width, "little")) for number in numbers]
    return np.array(rows, dtype=np.uint8)


def test_faiss_reads_the_index_and_finds_what_ours_does(pair, stored, tmp_path):
    export(pair, "faiss", tmp_path)
    index = faiss.read_index_binary(str(tmp_path / "codes.faiss"))
    assert (index.ntotal, index.d) == (len(stored), 16)
    inside = np.array([index.reconstruct(item) for item in range(index.ntotal)])
    np.testing.assert_array_equal(inside, stored)
    distances, items = index.search(stored[:5], 7)
    ours = HammingIndex(stored, 12).search(stored[:5], 7)
    np.testing.assert_array_equal(distances, ours[0])
    np.testing.assert_array_equal(items, ours[1])
    assert lines(tmp_path / "items.jsonl") == as_items(pair)


def test_milvus_rows_hold_a_number_a_byte(pair, stored, tmp_path):
    export(pair, "milvus", tmp_path)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    np.testing.assert_array_equal(np.array([row.pop("code") for row in rows], np.uint8), stored)
    assert rows == as_items(pair)


def test_vespa_documents_hold_hexadecimal_bytes(pair, stored, tmp_path):
    export(pair, "vespa", tmp_path)
    documents = lines(tmp_path / "feed.jsonl")
    assert [each["put"] for each in documents[:2]] == [
        "id:digits:picture::0",
        "id:digits:picture::1",
    ]
    inside = [bytes.fromhex(each["fields"].pop("code")["values"]) for each in documents]
    np.testing.assert_array_equal(np.array([list(code) for code in inside], np.uint8), stored)
    assert [each["fields"] for each in documents] == as_items(pair)


def test_qdrant_points_are_as_far_apart_as_the_codes(pair, stored, tmp_path):
    export(pair, "qdrant", tmp_path)
    points = lines(tmp_path / "points.jsonl")
    vectors = np.array([point["vector"] for point in points])
    np.testing.assert_array_equal(repacked(vectors.tolist()), stored)
    manhattan = np.abs(vectors[:, None] - vectors).sum(axis=2)
    expected = codes.hamming_distances(stored, stored, bits=12)
    np.testing.assert_array_equal(manhattan, expected)
    assert [point["id"] for point in points] == list(range(len(stored)))
    assert [point["payload"] for point in points] == as_items(pair)


def test_qdrant_itself_finds_what_ours_does(pair, stored, tmp_path):
    export(pair, "qdrant", tmp_path)
    points = [models.PointStruct(**point) for point in lines(tmp_path / "points.jsonl")]
    client = QdrantClient(":memory:")
    form = models.VectorParams(
        size=12, distance=models.Distance.MANHATTAN, datatype=models.Datatype.UINT8
    )
    client.create_collection("digits", vectors_config=form)
    client.upsert("digits", points)
    distances, _ = HammingIndex(stored, 12).search(stored[:5], 9)
    for point, expected in zip(points, distances.tolist(), strict=False):
        found = client.query_points("digits", query=point.vector, limit=9).points
        assert [hit.score for hit in found] == expected
        assert found[0].payload["labels"] == points[found[0].id].payload["labels"]


def psql(address: str, folder: Path, file: str) -> str:
    programs = servers.binaries()
    assert programs
    done = subprocess.run(
        [programs / "psql", address, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", file],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_postgres_loads_the_table_and_orders_by_distance(pair, stored, tmp_path, postgres):
    export(pair, "postgres", tmp_path)
    shown = psql(postgres, tmp_path, "load.sql").splitlines()
    distances, items = HammingIndex(stored, 12).search(stored[-1:], 10)
    items_of = as_items(pair)
    expected = [
        f"{items_of[item]['image']}|{distance}"
        for item, distance in zip(items[0].tolist(), distances[0].tolist(), strict=True)
    ]
    assert shown == expected
    connection = psycopg2.connect(postgres)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT item, image, path, labels, code::text FROM isdh_digits_12bit ORDER BY item"
            )
            rows = cursor.fetchall()
            cursor.execute(
                "SELECT bit_count(a.code # b.code) FROM isdh_digits_12bit a, isdh_digits_12bit b "
                "ORDER BY a.item, b.item"
            )
            pairs = np.array(cursor.fetchall()).reshape(len(stored), len(stored))
    finally:
        connection.close()
    names = ("item", "image", "path", "labels")
    assert [dict(zip(names, row, strict=False)) for row in rows] == as_items(pair)
    np.testing.assert_array_equal(repacked([[int(b) for b in row[4]] for row in rows]), stored)
    whole = codes.hamming_distances(stored, stored, bits=12)
    np.testing.assert_array_equal(pairs, whole)


def test_pgvectors_operator_is_the_hamming_distance(pair, stored, tmp_path, postgres):
    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
            if not cursor.fetchall():
                pytest.skip("pgvector is not installed")
            cursor.execute("DROP TABLE IF EXISTS isdh_digits_12bit")
            export(pair, "postgres", tmp_path)
            psql(postgres, tmp_path, "load.sql")
            shown = psql(postgres, tmp_path, "pgvector.sql").splitlines()
            cursor.execute(
                "SELECT a.code <~> b.code FROM isdh_digits_12bit a, isdh_digits_12bit b "
                "ORDER BY a.item, b.item"
            )
            pairs = np.array(cursor.fetchall()).reshape(len(stored), len(stored))
    finally:
        connection.close()
    whole = codes.hamming_distances(stored, stored, bits=12)
    np.testing.assert_array_equal(pairs, whole)
    distances = [int(line.rpartition("|")[2]) for line in shown]
    assert distances == np.sort(whole[-1])[:10].tolist()


@pytest.mark.parametrize("engine", list(ENGINES))
def test_the_card_says_what_the_files_hold(pair, stored, tmp_path, engine):
    *files, card_file = export(pair, engine, tmp_path / "new" / "folder")
    card = read_json(card_file)
    assert card["sha256"] == {file.name: sha256(file) for file in files}
    assert (card["engine"], card["rows"], card["bits"]) == (engine, len(stored), 12)
    assert card["model"]["weights_sha256"] == pair.source.weights_sha256
    assert (card["model"]["name"], card["model"]["version"]) == ("isdh-digits-12bit", "2")
    assert "bit" in card["bit_order"]
    assert card["label_names"] == searched.LABELS


def test_the_command_writes_and_names_the_files(made, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(made.root)
    words = ["postgres", str(tmp_path / "out"), "--version", "1"]
    monkeypatch.setattr(sys, "argv", ["isdh", "export", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    names = ["codes.csv", "load.sql", "pgvector.sql", "export.json"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in names]
    with (tmp_path / "out" / "codes.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    whole = np.load(made.codes(searched.FIRST) / "codes.npy")
    places = [int(row[1].removeprefix("picture ")) for row in rows]
    np.testing.assert_array_equal(
        repacked([[int(b) for b in row[4]] for row in rows]), whole[places]
    )


def test_what_cannot_be_written_is_told(pair, tmp_path):
    with pytest.raises(InputError, match="unknown engine 'pgvector'"):
        export(pair, "pgvector", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/folder: Not a directory"):
        export(pair, "faiss", tmp_path / "file" / "folder")
