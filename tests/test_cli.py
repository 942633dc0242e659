"""`isdh …`: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from isdh import cli, doctor, tracking
from isdh.artifacts import Cell, Workspace
from isdh.params import Params
from tests import synthetic

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Params]:
    """A workspace whose cells stand in MLflow; read by the tests, not written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("published")
        workspace, settings = synthetic.write_workspace(root, bits=[12])
        synthetic.write_scores(workspace, Cell("digits", "dhn", 12, 0), ndcg_at_100=0.9)
        tracking.publish_all(workspace, settings)
    return workspace, settings


@pytest.fixture
def here(published: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(published[0].root)
    return published[0]


def isdh(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["isdh", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['isdh', '--help']\n"
        "from isdh.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "pandas", "torch", "mlflow", "pydantic", "rich", "yaml", "requests"}
    assert not heavy & set(done.stderr.split())
    for command in ("compare", "diff", "publish", "promote", "rollback", "doctor", "data"):
        assert f"  {command} " in done.stdout


def test_compare_shows_means_deviations_and_the_best(here, monkeypatch, capsys):
    assert isdh(monkeypatch, "compare") == 0
    shown = capsys.readouterr().out
    assert "digits: ndcg_at_100" in shown
    assert "0.7610 ±0.1966" in shown  # of 0.9 and 0.622
    assert "0.6170 ±0.0071" in shown


def test_compare_as_json_prints_json_and_nothing_else(here, monkeypatch, capsys):
    assert isdh(monkeypatch, "compare", "--json", "--metric", "map_at_all") == 0
    (comparison,) = json.loads(capsys.readouterr().out)
    assert comparison["metric"] == "map_at_all"
    assert comparison["reference"] == "isdh"
    entry = comparison["methods"]["isdh"]["12"]
    assert entry["mean"] == pytest.approx(0.517)
    assert entry["seeds"] == 2
    assert (entry["level"], entry["against"]) == (None, None)  # no values per query are there


@pytest.mark.parametrize("reference", ["isdh", "absent"])
def test_compare_marks_each_entry_and_says_what_the_marks_mean(
    here, monkeypatch, capsys, reference
):
    entries = {
        "best": tracking.Entry(0.9, 0.01, 2, best=True, champion=False, level=False, against=1),
        "level": tracking.Entry(0.8, None, 1, best=False, champion=True, level=True, against=1),
        "isdh": tracking.Entry(0.7, 0.02, 2, best=False, champion=False, level=False, against=0),
        "worse": tracking.Entry(0.6, 0.03, 2, best=False, champion=False, level=False, against=-1),
        "older": tracking.Entry(0.5, 0.04, 2, best=False, champion=False),
    }
    if reference == "absent":
        entries = {name: replace(entry, against=None) for name, entry in entries.items()}
    methods = {name: {12: entry} for name, entry in entries.items()}
    comparison = tracking.Comparison("digits", "map_at_all", "max", methods, reference)
    monkeypatch.setattr(tracking, "comparisons", lambda *args, **kwargs: [comparison])
    assert isdh(monkeypatch, "compare") == 0
    shown = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in shown.splitlines()]
    cells = {row[0]: row[1:] for row in rows if row and row[0] in entries}
    if reference == "isdh":
        assert cells == {
            "best": ["0.9000", "±0.0100", "▴"],
            "level": ["0.8000", "=▴*"],
            "isdh": ["0.7000", "±0.0200"],
            "worse": ["0.6000", "±0.0300", "▾"],
            "older": ["0.5000", "±0.0400", "?"],
        }
    else:  # that nothing is told of it is no fault of the runs
        assert cells["best"] == ["0.9000", "±0.0100"]
        assert cells["level"] == ["0.8000", "=*"]
        assert cells["older"] == ["0.5000", "±0.0400", "?"]
    caption = " ".join(" ".join(row) for row in rows)
    assert f"better, worse than {reference} (paired bootstrap over queries, 95 %)" in caption
    assert "=: level with it" in caption


@pytest.mark.parametrize(("words", "methods"), [((), {"isdh"}), (("--all",), {"isdh", "dhn"})])
def test_compare_leaves_out_cells_that_are_no_longer_in_the_matrix_unless_asked_for_all(
    published, tmp_path, monkeypatch, capsys, words, methods
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.address(published[0]))
    synthetic.write_params(tmp_path, methods=["isdh"], bits=[12], seeds=[0])
    monkeypatch.chdir(tmp_path)
    assert isdh(monkeypatch, "compare", "--json", *words) == 0
    (comparison,) = json.loads(capsys.readouterr().out)
    assert set(comparison["methods"]) == methods
    assert comparison["methods"]["isdh"]["12"]["seeds"] == (2 if words else 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "--metric", "ndcg_at_10"], "did you mean 'ndcg_at_100'? known: map_at_all"),
        (["compare", "--dataset", "digit"], "unknown dataset 'digit', did you mean 'digits'?"),
        (["rollback", "digits", "12", "--reason", "x"], "has no champion; run `isdh promote`"),
    ],
)
def test_what_is_not_known_is_told_in_one_line_with_exit_code_2(
    here, monkeypatch, capsys, words, told
):
    assert isdh(monkeypatch, *words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert told in output.err
    assert "Traceback" not in output.err


def test_usage_errors_have_exit_code_2(monkeypatch, capsys):
    assert isdh(monkeypatch, "compare", "--metrics", "x") == 2
    assert "No such option" in capsys.readouterr().err


def test_a_folder_that_is_no_project_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert isdh(monkeypatch, "compare") == 2
    assert "params.yaml: no such file; run from the project's root" in capsys.readouterr().err


def test_compare_without_runs_tells_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    synthetic.write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert isdh(monkeypatch, "compare") == 2
    assert "run `dvc repro`, then `isdh publish`" in capsys.readouterr().err


def test_publish_counts_what_it_did(here, monkeypatch, capsys):
    assert isdh(monkeypatch, "publish") == 0
    assert "0 cells written, 4 unchanged, 0 not trained" in capsys.readouterr().out


def test_promote_dry_run_tells_what_would_move(here, monkeypatch, capsys):
    assert isdh(monkeypatch, "promote", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "isdh-digits-12bit: champion moves to a new version (digits/dhn-12-0)" in told
    assert not (here.root / "promotions.jsonl").exists()


def test_promote_without_scores_is_told(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.address(published[0]))
    synthetic.write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert isdh(monkeypatch, "promote") == 2
    assert "no scored cell to promote; run `dvc repro`" in capsys.readouterr().err


# ---------------------------------------------------------------- doctor


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # asked for nothing on this machine
    monkeypatch.setenv("no_proxy", "")


def examine(root: Path) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine(Workspace(root))}


@pytest.mark.usefixtures("no_servers")
def test_doctor_passes_a_fresh_clone_and_says_what_is_still_to_come(tmp_path, monkeypatch, capsys):
    synthetic.write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert isdh(monkeypatch, "doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "note", "ok", "ok", "ok", "note"]
    assert "8 cells" in lines[0]
    assert "`dvc repro` makes it" in lines[1]
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]  # looking changes nothing


@pytest.mark.usefixtures("no_servers")
def test_doctor_names_what_stops_a_run_with_exit_code_1(tmp_path, monkeypatch, capsys):
    synthetic.write_params(tmp_path, datasets={"digits": "elsewhere/digits"})
    monkeypatch.chdir(tmp_path)
    assert isdh(monkeypatch, "doctor") == 1
    assert "elsewhere/digits: no such folder" in capsys.readouterr().out


@pytest.mark.usefixtures("no_servers")
def test_doctor_finds_pictures_missing_weights_and_bad_settings(tmp_path):
    inputs = {"kind": "features", "backbone": "mobilenet_v2", "weights": "weights/m.pth"}
    sections = {"source": {"reader": "folder"}, "inputs": inputs, "network": {}, "training": {}}
    synthetic.write_params(tmp_path, dataset={"digits": sections})
    (tmp_path / "raw" / "digits").mkdir(parents=True)
    (tmp_path / "raw" / "digits" / "labels.csv").write_text("image,one\n")
    found = list(doctor.examine(Workspace(tmp_path)))
    assert [finding.state for finding in found if finding.subject == "digits"] == ["ok", "amiss"]
    (tmp_path / "params.yaml").write_text("bits: [0]")
    assert examine(tmp_path)["params.yaml"].state == "amiss"


@pytest.mark.usefixtures("no_servers")
def test_doctor_tells_servers_that_answer_from_those_that_do_not(tmp_path, monkeypatch):
    synthetic.write_params(tmp_path)

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def do_POST(self) -> None:  # MLflow: no experiments
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        up = examine(tmp_path)
        server.shutdown()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    down = examine(tmp_path)
    assert (up["Prefect"].state, down["Prefect"].state) == ("ok", "note")
    assert (up["MLflow"].state, down["MLflow"].state) == ("ok", "note")
