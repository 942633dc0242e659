"""Encode, search by picture, id and code: against codes and distances as the files have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isdh import manifest
from isdh.artifacts import Cell, Workspace, read_codes
from isdh.codes import hamming_distances
from tests.serve.conftest import BITS, Served

pytestmark = pytest.mark.slow
CELL = Cell("digits", "isdh", BITS, 0)
OTHER = Cell("digits", "dhn", BITS, 0)


@pytest.fixture(scope="module")
def frame(promoted_once):
    return manifest.read(Workspace(promoted_once).manifest("digits"))


@pytest.fixture(scope="module")
def codes(promoted_once, frame):
    return read_codes(Workspace(promoted_once).codes(CELL), bits=BITS, rows=len(frame))


def ranking(frame, codes, row: int) -> list[tuple[int, str]]:
    """All searched pictures but the row itself, by distance, then position."""
    rows = [each for each in manifest.database_rows(frame).tolist() if each != row]
    distances = hamming_distances(codes[[row]], codes[rows], bits=BITS)[0]
    order = np.argsort(distances, kind="stable")
    return [(int(distances[i]), frame["image"][rows[i]]) for i in order]


def told(answer) -> list[tuple[int, str]]:
    return [(each["distance"], each["id"]) for each in answer["neighbours"]]


@pytest.mark.parametrize("split", ["query", "database"])
def test_search_by_id_gives_the_nearest_without_the_picture_itself(standing, frame, codes, split):
    for row in np.flatnonzero(frame["split"] == split)[:5]:
        answer = standing.get("/api/search/image", id=frame["image"][row], k=17)
        assert told(answer) == ranking(frame, codes, row)[:17]
        assert answer["asked"]["code"] == codes[row].tobytes().hex()


def test_ties_tell_how_many_stand_at_each_distance(standing, frame, codes):
    row = int(manifest.database_rows(frame)[3])
    whole = ranking(frame, codes, row)
    for k in (1, 4, 30):
        answer = standing.get("/api/search/image", id=frame["image"][row], k=k)
        for tie in answer["ties"]:
            assert tie["all"] == sum(far == tie["distance"] for far, _ in whole)
            assert tie["shown"] == sum(far == tie["distance"] for far, _ in whole[:k])


def test_radius_and_labels_filter_before_the_cut(standing, frame, codes):
    row = int(manifest.query_rows(frame)[0])
    label = manifest.labels_of(frame)[0]
    has = dict(zip(frame["image"], frame[label], strict=True))
    wanted = [(far, name) for far, name in ranking(frame, codes, row) if has[name] and far <= 4]
    answer = standing.get("/api/search/image", id=frame["image"][row], k=3, radius=4, label=label)
    assert told(answer) == wanted[:3]
    assert answer["matching"] == len(wanted)
    assert all(label in each["labels"] for each in answer["neighbours"])
    within = [pair for pair in ranking(frame, codes, row) if pair[0] <= 2]
    answer = standing.get("/api/search/image", id=frame["image"][row], k=100, radius=2)
    assert told(answer) == within[:100]


def test_shared_labels_are_those_of_both(standing, frame):
    row = int(manifest.query_rows(frame)[1])
    own = {name for name in manifest.labels_of(frame) if frame[name][row]}
    answer = standing.get("/api/search/image", id=frame["image"][row])
    assert set(answer["asked"]["labels"]) == own
    for each in answer["neighbours"]:
        assert set(each["shared"]) == own & set(each["labels"])


def test_a_picture_has_the_code_that_its_row_has(standing, frame, codes, promoted_once):
    for row in (0, 70, 100):
        data = (promoted_once / "raw/digits" / frame["path"][row]).read_bytes()
        answer = standing.post("/api/encode", data)
        assert answer["code"] == codes[row].tobytes().hex()
        bits = np.unpackbits(codes[row], count=BITS, bitorder="little")
        assert answer["bits"] == "".join(map(str, bits))
        found = standing.post("/api/search", data, k=5)
        by_code = standing.get("/api/search/code", code=answer["code"], k=5)
        assert found["neighbours"] == by_code["neighbours"]


def test_each_answer_names_the_version(standing, frame):
    image = frame["image"][0]
    by_default = standing.get("/api/search/image", id=image)["model"]
    assert (by_default["version"], by_default["cell"]) == ("1", str(CELL))
    other = standing.get("/api/search/image", id=image, alias="challenger")["model"]
    assert (other["version"], other["cell"]) == ("2", str(OTHER))
    for path in ("/api/pictures", "/ready", "/version", "/api/search/code?code=zz", "/nothing"):
        answer = standing.client.get(path)
        assert answer.headers["x-isdh-version"] == "isdh-digits-12bit/1"


def test_k_beyond_the_collection_is_capped_and_said(standing, frame):
    answer = standing.get("/api/search/image", id=frame["image"][0], k=10**30)
    assert answer["k"] == 100 == len(answer["neighbours"])
    assert "no more pictures" in answer["notes"][0]
    assert standing.get("/api/search/image", id=frame["image"][0], k=100)["notes"] == []


def test_the_collection_is_listed_by_split_and_label(standing, frame):
    answer = standing.get("/api/pictures", split="query", limit=7, offset=15)
    names = frame["image"][frame["split"] == "query"].tolist()
    assert answer["total"] == len(names)
    assert [each["id"] for each in answer["pictures"]] == names[15:22]
    label = manifest.labels_of(frame)[2]
    answer = standing.get("/api/pictures", label=label, limit=200)
    assert answer["total"] == frame[label].sum()
    assert standing.get("/api/pictures", offset=10**30)["pictures"] == []


def test_pictures_come_small_and_with_a_tag(standing, frame):
    answer = standing.client.get("/api/picture", params={"id": frame["image"][0]})
    assert answer.headers["content-type"] == "image/webp"
    assert answer.content[8:12] == b"WEBP"
    again = standing.client.get(
        "/api/picture",
        params={"id": frame["image"][0]},
        headers={"If-None-Match": answer.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")


def test_metrics_count_requests_and_name_the_model(standing: Served, frame):
    standing.get("/api/search/image", id=frame["image"][0])
    text = standing.client.get("/metrics").text
    assert 'isdh_requests_total{route="/api/search/image",status="200"}' in text
    assert 'isdh_model{alias="champion",name="isdh-digits-12bit",version="1"} 1.0' in text
    standing.client.get(f"/{'x' * 50}")
    assert "xxx" not in standing.client.get("/metrics").text


def test_openapi_names_every_route(standing):
    paths = standing.get("/openapi.json")["paths"]
    assert {"/api/encode", "/api/search", "/api/search/image", "/api/search/code"} <= set(paths)


def test_the_page_asks_nobody_else(standing):
    here = Path(__file__).parents[2] / "isdh" / "serve" / "static"
    for path in here.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path
        assert "https:" not in text, path
