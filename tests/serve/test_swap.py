"""The champion moves, files change or are damaged: what is served then; no answer is lost."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from isdh import encoded
from isdh.artifacts import Cell, Workspace, write_codes
from isdh.errors import InputError
from isdh.serve import current
from isdh.serve.options import Options
from tests.pictures import saved, scene
from tests.serve.conftest import BITS, Served, served
from tests.tracking.servers import Server
from tests.workspaces import within

pytestmark = pytest.mark.slow
MODEL = f"isdh-digits-{BITS}bit"


def move(workspace: Workspace, alias: str, version: int | None) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace.root / 'mlflow.db'}")
    if version is None:
        client.delete_registered_model_alias(MODEL, alias)
    else:
        client.set_registered_model_alias(MODEL, alias, str(version))


def champion(found: Served) -> str:
    version: str = found.get("/api/search/code", code="0000", k=1)["model"]["version"]
    return version


@contextmanager
def asking(found: Served, paths: list[tuple[str, str, bytes | None]]) -> Iterator[list[Any]]:
    """Ask without pause, a thread a path; (path, status, header, body) of every answer."""
    answers: list[Any] = []
    end = threading.Event()

    def ask(method: str, path: str, data: bytes | None) -> None:
        with httpx.Client(base_url=found.url, trust_env=False, timeout=60) as client:
            while not end.is_set():
                try:
                    answer = client.request(method, path, content=data)
                    answers.append((path, answer.status_code, answer.headers, answer.json()))
                except httpx.HTTPError as error:
                    answers.append((path, 0, {}, {"error": str(error)}))

    threads = [threading.Thread(target=ask, args=each) for each in paths]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_no_answer_is_lost_or_mixed_while_the_champion_moves(workspace):
    picture = saved(scene(0))
    with served(workspace) as found:
        image = found.get("/api/pictures", limit=1)["pictures"][0]["id"]
        asked = [
            ("POST", "/api/search?k=5", picture),
            ("POST", "/api/encode", picture),
            ("GET", f"/api/search/image?k=5&id={image}", None),
        ]
        right = {
            (path, version): found.client.request(
                method, path + ("&" if "?" in path else "?") + f"alias={alias}", content=data
            ).json()
            for method, path, data in asked
            for alias, version in (("champion", "1"), ("challenger", "2"))
        }
        with asking(found, asked) as answers:
            for version in (2, 1, 2, 1):
                before = len(answers)
                move(workspace, "champion", version)
                move(workspace, "challenger", 3 - version)
                found.service.current.refresh()
                assert champion(found) == str(version)
                while len(answers) < before + 12:
                    pass
    seen = set()
    for path, status, headers, body in answers:
        assert status == 200, body
        version = body["model"].pop("version")
        seen.add(version)
        assert headers["x-isdh-version"] == f"{MODEL}/{version}"
        expected = {**right[path, version], "model": {**right[path, version]["model"]}}
        del expected["model"]["version"]
        for each in (expected, body):
            del each["model"]["alias"]
        assert body == expected
    assert seen == {"1", "2"}


def test_the_service_itself_looks_at_the_registry(workspace):
    with served(workspace, Options(port=0, every=0.1)) as found:
        move(workspace, "champion", 2)
        for _ in range(600):
            if champion(found) == "2":
                break
            threading.Event().wait(0.05)
        assert champion(found) == "2"
        assert "isdh_swaps_total" in found.client.get("/metrics").text


def test_the_pair_that_is_loaded_already_is_taken(workspace, monkeypatch):
    with served(workspace) as found:
        pair = found.service.current.serving.pairs["challenger"]
        monkeypatch.setattr(current.search, "load", lambda *_: pytest.fail("loaded again"))
        move(workspace, "champion", 2)
        found.service.current.refresh()
        assert found.service.champion is pair


def alter(path: Path) -> None:
    """Turn a bit of the last byte, keeping all else."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # DVC's cache may hold the file by a link
    path.write_bytes(bytes(data))


def codes_of(workspace: Workspace, method: str) -> Path:
    return workspace.codes(Cell("digits", method, BITS, 0))


def registered_weights(workspace: Workspace, method: str) -> Path:
    found = [
        path
        for path in workspace.root.glob("mlartifacts/**/weights.safetensors")
        if path.parent.name == f"{method}-{BITS}-0"
    ]
    assert len(found) == 1
    return found[0]


DAMAGES = {
    "codes altered": (lambda w: alter(codes_of(w, "dhn") / "codes.npy"), "sha256"),
    "codes lost": (lambda w: os.remove(codes_of(w, "dhn") / "codes.npy"), "no such file"),
    "card cut": (lambda w: (codes_of(w, "dhn") / "codes.json").write_text("{"), "not JSON"),
    "weights altered": (lambda w: alter(registered_weights(w, "dhn")), "sha256"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_pair_is_refused_and_the_old_one_goes_on(workspace, damage):
    harm, reason = DAMAGES[damage]
    with served(workspace) as found:
        move(workspace, "challenger", None)
        found.service.current.refresh()
        assert found.get("/ready")["refused"] == {}
        harm(workspace)
        move(workspace, "champion", 2)
        found.service.current.refresh()
        assert champion(found) == "1"
        ready = found.get("/ready")
        assert ready["ready"]
        assert ready["version"] == f"{MODEL}/1"
        assert ready["refused"] == {"champion": "2"}
        assert reason in found.get("/version")["refused"]["champion"]
        assert found.post("/api/search", saved(scene(0)))["model"]["version"] == "1"
        move(workspace, "champion", 1)
        found.service.current.refresh()
        assert found.get("/ready")["refused"] == {}
    harm_first = Workspace(workspace.root)
    move(harm_first, "champion", 2)
    with pytest.raises(InputError, match=reason), served(harm_first):
        pass  # and none is served from the start


def trained_again(workspace: Workspace, method: str) -> None:
    """As a new training leaves its codes: whole, of other weights."""
    codes = np.zeros((180, 2), np.uint8)
    write_codes(codes_of(workspace, method), codes, bits=BITS, weights_sha256="0" * 64)


@pytest.mark.parametrize("harm", [trained_again, lambda w, m: shutil.rmtree(codes_of(w, m))])
def test_a_champion_whose_codes_are_gone_makes_them_again(workspace, harm, monkeypatch):
    with served(workspace) as found:
        image = found.get("/api/pictures", limit=1)["pictures"][0]["id"]
        before = found.get("/api/search/image", id=image, k=50)
    harm(workspace, "isdh")
    harm(workspace, "dhn")
    with served(workspace) as found:
        assert found.get("/api/search/image", id=image, k=50) == before
        assert found.get("/ready")["refused"] == {}
    kept = sorted((workspace.root / ".isdh/codes/digits").iterdir())
    assert len(kept) == 2  # a model each
    alter(kept[0] / "codes.npy")  # made once more
    monkeypatch.setattr(
        encoded.encoding, "encode_batches", called := Counted(encoded.encoding.encode_batches)
    )
    with served(workspace) as found:
        assert found.get("/api/search/image", id=image, k=50) == before
    assert called.times == 1


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.times = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.times += 1
        return self.function(*args, **kwargs)


def test_data_that_a_run_is_at_is_not_taken(workspace):
    """A manifest is new, inputs are of the last one: the pair before goes on."""
    lock = workspace.root / "dvc.lock"
    with served(workspace) as found:
        before = found.get("/version")["pictures"]
        content = yaml.safe_load(lock.read_text())
        content["stages"]["dataset@digits"]["outs"][0]["md5"] = "0" * 32
        lock.write_text(yaml.safe_dump(content))
        os.utime(workspace.manifest("digits"))
        found.service.current.refresh()
        assert "a run is at them" in found.get("/version")["refused"]["champion"]
        assert found.get("/version")["pictures"] == before


def test_a_pair_that_was_mended_is_taken(workspace, monkeypatch):
    monkeypatch.setattr(current, "AGAIN", 0.0)
    path = codes_of(workspace, "dhn") / "codes.json"
    before = path.read_text()
    with served(workspace) as found:
        move(workspace, "challenger", None)
        found.service.current.refresh()
        path.unlink()
        path.write_text("{")
        move(workspace, "champion", 2)
        found.service.current.refresh()
        assert champion(found) == "1"
        path.write_text(before)
        found.service.current.refresh()
        assert champion(found) == "2"


def test_files_of_the_pair_that_is_served_may_go(workspace):
    """Once loaded it needs none of them."""
    with served(workspace) as found:
        image = found.get("/api/pictures", limit=1)["pictures"][0]["id"]
        before = found.get("/api/search/image", id=image)
        champion = found.service.champion
        shutil.rmtree(codes_of(workspace, "isdh"))
        found.service.current.refresh()
        assert found.service.champion is champion
        assert found.get("/api/search/image", id=image) == before
        found.post("/api/encode", saved(scene(0)))


def test_without_the_registry_the_service_goes_on_and_says_so(workspace):
    database = workspace.root / "mlflow.db"
    with served(workspace) as found:
        away = database.rename(workspace.root / "away.db")
        found.service.current.refresh()
        assert champion(found) == "1"
        assert found.get("/ready")["registry"] == "does not answer"
        assert "no such database" in found.get("/version")["registry"]
        away.rename(database)
        found.service.current.refresh()
        assert found.get("/ready")["registry"] == "answers"


def test_a_registry_behind_a_server_is_followed_and_may_be_away(workspace, monkeypatch):
    """As in compose.yaml: the service asks MLflow's server, and looks by itself."""
    store = f"sqlite:///{workspace.root / 'mlflow.db'}"
    server = Server("sqlite", store, workspace.root, "127.0.0.1", app="isdh")
    server.start()
    try:
        server.wait()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        with (
            served(workspace, Options(port=0, every=0.2)) as found,
            asking(found, [("POST", "/api/search?k=5", saved(scene(0)))]) as answers,
        ):
            assert champion(found) == "1"
            client = MlflowClient(tracking_uri=server.uri)
            client.set_registered_model_alias(MODEL, "champion", "2")
            assert within(60, lambda: champion(found) == "2")
            server.stop()
            assert within(60, lambda: found.get("/ready")["registry"] == "does not answer")
            assert champion(found) == "2"
            server.start()
            server.wait()
            assert within(60, lambda: found.get("/ready")["registry"] == "answers")
    finally:
        server.stop()
    assert {status for _, status, _, _ in answers} == {200}
    assert {body["model"]["version"] for _, _, _, body in answers} == {"1", "2"}


def test_without_a_champion_the_last_one_goes_on(workspace):
    with served(workspace) as found:
        move(workspace, "champion", None)
        found.service.current.refresh()
        assert champion(found) == "1"
        assert found.get("/ready")["refused"] == {"champion": ""}


def test_without_a_challenger_none_is_served(workspace):
    with served(workspace) as found:
        move(workspace, "challenger", None)
        found.service.current.refresh()
        found.get("/api/search/code", 404, code="0000", alias="challenger")
        assert [model["alias"] for model in found.get("/version")["models"]] == ["champion"]
