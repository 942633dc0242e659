"""A collection -> files that other engines load: FAISS, Milvus, Vespa, Qdrant, PostgreSQL.

Bit j of a code is 1 iff the network's output j is positive. Where codes are bytes, bit j is bit
j % 8 of byte j // 8, counted from the lowest, and pad bits are 0; where they are bit strings, bit 0
is the leftmost. The order does not change a Hamming distance, as long as queries have the same.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isdh.artifacts import replacing, sha256, write_json
from isdh.codes import unpack
from isdh.errors import InputError, unknown
from isdh.search import Pair

BYTES = "bit j is bit j % 8 of byte j // 8, counted from the lowest; pad bits are 0"
STRING = "bit 0 is the leftmost"
ROWS = 10_000  # unpacked at once


def export(pair: Pair, engine: str, folder: Path) -> list[Path]:
    """Write a collection for an engine, and export.json, which says what the files hold.

    Args:
        pair: the model and the collection.
        engine: one of ENGINES.
        folder: where to; created. Files of the same names are replaced.

    Returns:
        The files, export.json last.

    Raises:
        InputError: an unknown engine, or the folder cannot be written to.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    write, order, distance = ENGINES[engine]
    try:
        files = list(write(pair, folder))
        card = {
            "engine": engine,
            "rows": len(pair.collection),
            "bits": pair.collection.bits,
            "bit_order": order,
            "distance": distance,
            "model": pair.source.as_dict(),
            "label_names": list(pair.collection.label_names),
            "sha256": {file.name: sha256(file) for file in files},
        }
        write_json(folder / "export.json", card)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; name a folder that can be written") from None
    return [*files, folder / "export.json"]


def to_faiss(pair: Pair, folder: Path) -> Iterator[Path]:
    """A binary index for `faiss.read_index_binary`, whose position i is line i of items.jsonl.

    Its codes take whole bytes, as FAISS wants: queries have to be filled up with zeros likewise, as
    `isdh.codes.pack` does (https://github.com/facebookresearch/faiss/wiki/Binary-indexes).
    """
    import faiss

    codes = _codes(pair)
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    path = folder / "codes.faiss"
    with replacing(path) as stream:
        stream.write(faiss.serialize_index_binary(index).tobytes())
    yield path
    yield _lines(folder / "items.jsonl", _items(pair))


def to_milvus(pair: Pair, folder: Path) -> Iterator[Path]:
    """One JSON file of rows for Milvus's bulk import.

    A collection for them has the primary key `item` (INT64), `code` (BINARY_VECTOR, whose dim is
    the code length filled up to a multiple of 8, here a number from 0 to 255 a byte), `image` and
    `path` (VARCHAR), `labels` (ARRAY of VARCHAR, or a dynamic field), and searches with the metric
    HAMMING (https://milvus.io/docs/prepare-source-data.md, https://milvus.io/docs/binary-vector.md).
    """
    path = folder / "rows.json"
    with replacing(path, "w") as stream:
        separator = '{"rows": [\n'
        for item, code in zip(_items(pair), _codes(pair), strict=True):
            stream.write(separator + _json({**item, "code": code.tolist()}))
            separator = ",\n"
        stream.write("\n]}\n")
    yield path


def to_vespa(pair: Pair, folder: Path) -> Iterator[Path]:
    """Documents for `vespa feed`, one a line.

    The field `code` is a tensor<int8>(x[bytes]) in hexadecimal, with `distance-metric: hamming`;
    `unpack_bits` has to be told `little`
    (https://docs.vespa.ai/en/reference/document-json-format.html,
    https://docs.vespa.ai/en/reference/schema-reference.html#distance-metric).
    """
    name = pair.source.cell.dataset

    def documents() -> Iterator[dict[str, Any]]:
        for item, code in zip(_items(pair), _codes(pair), strict=True):
            fields = {**item, "code": {"values": code.tobytes().hex()}}
            yield {"put": f"id:{name}:picture::{item['item']}", "fields": fields}

    yield _lines(folder / "feed.jsonl", documents())


def to_qdrant(pair: Pair, folder: Path) -> Iterator[Path]:
    """Points, one a line, to be sent in batches as {"points": [...]}.

    Qdrant has no Hamming distance: vectors are the bits themselves, for a collection with
    `"distance": "Manhattan", "datatype": "uint8"`, which is the Hamming distance of 0 and 1
    (https://qdrant.tech/documentation/concepts/vectors/, .../concepts/points/).
    """

    def points() -> Iterator[dict[str, Any]]:
        for item, bits in zip(_items(pair), _bits(pair), strict=True):
            yield {"id": item["item"], "vector": bits.tolist(), "payload": item}

    yield _lines(folder / "points.jsonl", points())


def to_postgres(pair: Pair, folder: Path) -> Iterator[Path]:
    """A table with a `bit(n)` column: codes.csv for COPY, and the SQL that loads and asks.

    load.sql is plain PostgreSQL from version 14, pgvector.sql its Hamming operator `<~>` and an
    index for it, from version 0.7 (https://www.postgresql.org/docs/current/datatype-bit.html,
    https://github.com/pgvector/pgvector#binary-vectors). Both are for psql, run in this folder.
    """
    path = folder / "codes.csv"
    with replacing(path) as stream:
        writer = csv.writer(codecs.getwriter("utf-8")(stream), lineterminator="\n")
        for item, bits in zip(_items(pair), _bits(pair), strict=True):
            labels = _array(item["labels"])
            text = "".join(map(str, bits.tolist()))
            writer.writerow([item["item"], item["image"], item["path"], labels, text])
    yield path
    table = f"isdh_{pair.source.cell.dataset}_{pair.collection.bits}bit"
    names = {"table": table, "bits": pair.collection.bits, "code": text}
    for name, template in (("load.sql", LOAD), ("pgvector.sql", PGVECTOR)):
        with replacing(folder / name, "w") as stream:
            stream.write(template.format(**names))
        yield folder / name


LOAD = r"""-- psql -v ON_ERROR_STOP=1 -f load.sql
-- The leftmost bit of a code is the first.
BEGIN;
CREATE TABLE {table} (
  item integer PRIMARY KEY,
  image text NOT NULL UNIQUE,
  path text NOT NULL,
  labels text[] NOT NULL,
  code bit({bits}) NOT NULL
);
\copy {table} (item, image, path, labels, code) FROM 'codes.csv' WITH (FORMAT csv, ENCODING 'UTF8')
COMMIT;
-- The nearest, exact; ties in the collection's order.
SELECT image, bit_count(code # B'{code}') AS distance
FROM {table} ORDER BY distance, item LIMIT 10;
"""
PGVECTOR = """-- psql -v ON_ERROR_STOP=1 -f pgvector.sql, after load.sql; pgvector 0.7 or later
CREATE EXTENSION IF NOT EXISTS vector;
CREATE INDEX ON {table} USING hnsw (code bit_hamming_ops);
-- The nearest, approximate by that index.
SELECT image, code <~> B'{code}' AS distance
FROM {table} ORDER BY code <~> B'{code}' LIMIT 10;
"""

Write = Callable[[Pair, Path], Iterable[Path]]
ENGINES: dict[str, tuple[Write, str, str]] = {
    "faiss": (to_faiss, BYTES, "Hamming"),
    "milvus": (to_milvus, BYTES, "HAMMING"),
    "vespa": (to_vespa, f"of the bytes that the hexadecimal numbers are, {BYTES}", "hamming"),
    "qdrant": (to_qdrant, "bit j is element j", "Manhattan"),
    "postgres": (to_postgres, STRING, "bit_count(a # b), or pgvector's <~>"),
}


def _items(pair: Pair) -> Iterator[dict[str, Any]]:
    """What is told of each item beside its code."""
    found = pair.collection
    for item, row in enumerate(found.searched.tolist()):
        image, path = found.images[row], str(found.files[row])
        yield {"item": item, "image": image, "path": path, "labels": found.labels_of(row)}


def _codes(pair: Pair) -> NDArray[np.uint8]:
    """Of the items."""
    return pair.collection.codes[pair.collection.searched]


def _bits(pair: Pair) -> Iterator[NDArray[np.uint8]]:
    """The bits of each code, uint8 0/1 (bits,)."""
    codes = _codes(pair)
    for start in range(0, len(codes), ROWS):
        yield from unpack(codes[start : start + ROWS], pair.collection.bits)


def _array(values: Sequence[str]) -> str:
    """An array of texts as PostgreSQL reads it."""
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in escaped) + "}"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _lines(path: Path, values: Iterable[Any]) -> Path:
    with replacing(path, "w") as stream:
        stream.writelines(_json(value) + "\n" for value in values)
    return path
