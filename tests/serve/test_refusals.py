"""Bad input, and who may ask: each has its status, a reason, and no traceback."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
import zlib

import httpx
import pytest
from PIL import Image

from isdh.artifacts import Workspace
from isdh.errors import InputError
from isdh.serve import guard
from isdh.serve.options import Options, token_for
from tests.pictures import saved, scene
from tests.serve.conftest import served

pytestmark = pytest.mark.slow
TOKEN = "a secret of some length"


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few hundred bytes."""
    data = saved(Image.new("L", (1, 1)), format="PNG")
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = b"IHDR" + head
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return data[:8] + chunk + data[8 + 25 :]


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 415, "no image"),
        (b"no picture at all", 415, "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "no image"),
        (saved(scene(0))[:-200], 422, "damaged"),
        (saved(scene(0), format="PNG")[:900], 422, "damaged"),
        (bomb(), 413, "more than 89,478,485 pixels"),
        (b"x" * 20_000_001, 413, "more than 20000000 bytes"),
    ],
)
@pytest.mark.parametrize("path", ["/api/encode", "/api/search"])
def test_what_is_no_picture_is_refused(standing, path, data, status, reason):
    answer = standing.client.post(path, content=data)
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


def test_a_form_is_told_what_to_send(standing):
    answer = standing.client.post("/api/encode", files={"image": saved(scene(0))})
    assert answer.status_code == 415
    assert "--data-binary" in answer.json()["error"]


def test_a_body_without_length_is_cut_off_at_the_limit(standing):
    """Chunks come for ever; the answer comes when the limit is reached."""
    port = int(standing.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = f"POST /api/encode HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        sent, chunk = 0, b"10000\r\n" + b"x" * 65536 + b"\r\n"
        try:
            while sent < 200_000_000:
                connection.sendall(chunk)
                sent += 65536
        except OSError:
            pass
        assert sent < 40_000_000
        try:
            answer = connection.recv(100)
        except ConnectionResetError:
            answer = b"HTTP/1.1 413"  # the rest that was sent took the answer away
        assert answer.startswith(b"HTTP/1.1 413")


def test_a_picture_that_trickles_is_given_up(workspace):
    with served(workspace, Options(port=0, every=3600, seconds=0.5)) as found:
        port = int(found.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            head = f"POST /api/encode HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            connection.sendall(head.encode() + b"Content-Length: 1000\r\n\r\nabc")
            assert b"408" in connection.recv(100)


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/api/search/code?code=00", 422, "want 4 of hex, 12 bits"),
        ("/api/search/code?code=000000", 422, "want 4 of hex"),
        ("/api/search/code?code=zzzz", 422, "want 4 of hex"),
        ("/api/search/code?code=0%20a0", 422, "want 4 of hex"),
        ("/api/search/code?code=00f0", 422, "beyond the 12th"),
        ("/api/search/code", 422, "code: field required"),
        ("/api/search/image?id=unknown", 404, "no picture of the collection"),
        ("/api/search/image?id=", 422, "at least 1 character"),
        ("/api/search/code?code=0000&k=0", 422, "greater than or equal to 1"),
        ("/api/search/code?code=0000&k=many", 422, "valid integer"),
        ("/api/search/code?code=0000&radius=-1", 422, "greater than or equal to 0"),
        ("/api/search/code?code=0000&label=unicorn", 422, "no label of the collection"),
        ("/api/search/code?code=0000&alias=latest", 422, "'champion' or 'challenger'"),
        ("/api/pictures?limit=100000", 422, "less than or equal to 200"),
        ("/api/nothing", 404, "Not Found"),
    ],
)
def test_what_cannot_be_searched_is_refused(standing, path, status, reason):
    answer = standing.client.get(path)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    "name",
    [
        "../params.yaml",
        "..%2f..%2fparams.yaml",
        "/etc/passwd",
        "images/../../../params.yaml",
        "..\\params.yaml",
        "page.js\0",
    ],
)
def test_no_name_leads_out_of_the_collection(standing, name):
    assert standing.client.get("/api/picture", params={"id": name}).status_code == 404
    assert standing.client.get("/api/search/image", params={"id": name}).status_code == 404
    path = name.replace("\0", "%00")
    for url in (f"/static/{path}", f"/static/%2e%2e/{path}"):
        raw = httpx.URL(standing.url).copy_with(raw_path=url.encode())
        answer = standing.client.get(raw)
        assert answer.status_code in {404, 400}
        assert "datasets" not in answer.text


def test_a_picture_that_is_gone_is_not_found(workspace):
    with served(workspace) as found:
        image = found.get("/api/pictures", limit=1)["pictures"][0]["id"]
        (workspace.root / "raw/digits" / image).unlink()
        assert "not on this machine" in found.get("/api/picture", 404, id=image)["error"]
        assert found.get("/api/search/image", id=image)["neighbours"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "[::1", "127.0.0.1.x.y"])
def test_another_name_is_refused(standing, host):
    answer = standing.client.get("/version", headers={"Host": host})
    assert answer.status_code == 400
    assert standing.client.get("/health", headers={"Host": host or "x"}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "[::1]:8000", "127.0.0.1"])
def test_names_of_loopback_are_known(standing, host):
    assert standing.client.get("/version", headers={"Host": host}).status_code == 200


def test_pages_elsewhere_may_not_ask(standing):
    head = {"Origin": "https://evil.example"}
    assert standing.client.post("/api/encode", content=b"x", headers=head).status_code == 403
    assert standing.client.get("/version", headers=head).status_code == 403
    for odd in ("null", "http://[", "", "//", "http://127.0.0.1.evil.example"):
        answer = standing.client.get("/version", headers={"Origin": odd})
        assert answer.status_code == 403, odd
    own = standing.client.get("/version", headers={"Origin": standing.url})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


def test_an_origin_that_is_allowed_may_ask(workspace):
    options = Options(port=0, every=3600, origins=("https://good.example",), token=TOKEN)
    with served(workspace, options) as found:
        head = {"Origin": "https://good.example", "Authorization": f"Bearer {TOKEN}"}
        answer = found.client.get("/version", headers=head)
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        before = {
            "Origin": "https://good.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert found.client.options("/api/search", headers=before).status_code == 200
        evil = {**head, "Origin": "https://evil.example"}
        assert found.client.get("/version", headers=evil).status_code == 403


def test_with_a_token_nothing_is_told_without_it(workspace):
    with served(workspace, Options(port=0, every=3600, token=TOKEN)) as found:
        closed = ("/version", "/metrics", "/openapi.json", "/api/pictures", "/api/picture?id=x")
        for path in closed:
            assert found.client.get(path).status_code == 401, path
            wrong = {"Authorization": "Bearer another secret of some length"}
            assert found.client.get(path, headers=wrong).status_code == 401, path
            odd = {"Authorization": b"Bearer \xe4", "Cookie": b"isdh_session=\xe4"}
            assert found.client.get(path, headers=odd).status_code == 401, path
        for path in ("/", "/static/page.js", "/health", "/ready"):
            assert found.client.get(path).status_code == 200, path
        head = {"Authorization": f"Bearer {TOKEN}"}
        assert found.client.get("/version", headers=head).status_code == 200
        described = found.client.get("/openapi.json", headers=head).json()
        assert "HTTPBearer" in described["components"]["securitySchemes"]
        assert found.client.post("/api/session").status_code == 401
        answer = found.client.post("/api/session", headers=head)
        cookie = answer.headers["set-cookie"]
        assert TOKEN not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert found.client.get("/version").status_code == 200  # by the cookie


def test_answers_carry_the_heads_that_close_a_browser(standing):
    for path in ("/", "/version", "/nothing", "/static/page.js"):
        head = standing.client.get(path).headers
        assert "default-src 'none'" in head["content-security-policy"]
        assert head["x-content-type-options"] == "nosniff"
        assert head["x-frame-options"] == "DENY"
        assert "server" not in head
    refused = standing.client.get("/version", headers={"Host": "evil.example"})
    assert "content-security-policy" in refused.headers


def test_a_fault_is_told_without_its_traceback(workspace, monkeypatch):
    with served(workspace) as found:

        def fail(*_, **__):
            raise RuntimeError("secret inside")

        monkeypatch.setattr(type(found.service.champion.collection), "search", fail)
        answer = found.client.get("/api/search/code", params={"code": "0000"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text


def test_a_network_that_fails_is_told_and_the_next_picture_is_encoded(workspace, monkeypatch):
    picture = saved(scene(0))
    with served(workspace) as found:
        encoder = type(found.service.champion.encoder)
        right = encoder.codes

        def fail(*_):
            raise RuntimeError("secret inside")

        monkeypatch.setattr(encoder, "codes", fail)
        assert "secret" not in found.post("/api/encode", picture, 500)["error"]
        monkeypatch.setattr(encoder, "codes", right)
        found.post("/api/encode", picture)
        assert found.service.taken == 0


def test_who_finds_the_service_full_is_sent_away_for_now(workspace, monkeypatch):
    picture = saved(scene(0))
    with served(workspace, Options(port=0, every=3600, waiting=2)) as found:
        encoder = type(found.service.champion.encoder)
        right, go = encoder.codes, threading.Event()

        def slow(self, pixels):
            go.wait(30)
            return right(self, pixels)

        monkeypatch.setattr(encoder, "codes", slow)
        answers: list[int] = []

        def ask():
            with httpx.Client(base_url=found.url, trust_env=False, timeout=60) as client:
                answers.append(client.post("/api/encode", content=picture).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        while found.service.taken < 2:
            time.sleep(0.01)
        sent_away = found.client.post("/api/encode", content=picture)
        assert sent_away.status_code == 503
        assert int(sent_away.headers["retry-after"]) >= 1
        assert found.client.get("/api/search/code", params={"code": "0000"}).status_code == 200
        go.set()
        for thread in threads:
            thread.join()
        assert answers == [200, 200]
        assert found.client.post("/api/encode", content=picture).status_code == 200
        assert "isdh_overloaded_total 1.0" in found.client.get("/metrics").text


def test_beyond_all_measure_requests_are_sent_away_at_once(standing, monkeypatch):
    monkeypatch.setattr(guard, "REQUESTS", 0)
    answer = standing.client.get("/version")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert standing.client.get("/health").status_code == 200


def test_other_addresses_want_a_token(monkeypatch):
    monkeypatch.delenv("ISDH_TOKEN", raising=False)
    assert token_for("127.0.0.1", without=False) == ""
    assert token_for("::1", without=False) == ""
    assert token_for("0.0.0.0", without=True) == ""
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(InputError, match="ISDH_TOKEN"):
            token_for(host, without=False)
    monkeypatch.setenv("ISDH_TOKEN", TOKEN)
    assert token_for("0.0.0.0", without=False) == TOKEN


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": "short"},
        {"token": " padded with blanks  "},
        {"token": "not of ASCII: äöüäöüäöü"},
        {"waiting": 0},
        {"threads": 0},
        {"megabytes": 0},
        {"every": 0},
        {"origins": ("*",)},
        {"origins": ("https://example.org/path",)},
    ],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        Options(**wrong)


def test_pictures_of_every_kind_that_is_read_are_taken(standing):
    picture = scene(3).convert("RGB")
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        stream = io.BytesIO()
        picture.save(stream, form)
        assert len(standing.post("/api/encode", stream.getvalue())["bits"]) == 12


def test_a_workspace_without_champion_is_refused_at_the_start(workspace: Workspace):
    from isdh import params
    from isdh.serve.current import Current

    settings = params.load(workspace.root / "params.yaml")
    with pytest.raises(InputError, match="no champion"):
        Current(workspace, settings, "digits", 24)
