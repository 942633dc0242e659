"""What MLflow holds -> plots: beside the tables of a comparison, and those that each run keeps."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from flows import evaluate
from isdh import cli, comparison_page, methods, tracking
from isdh.artifacts import Cell, Workspace, read_json, write_array, write_json
from isdh.device import hardware
from isdh.params import Params
from isdh.report import emphasis, svg
from isdh.tracking import run_plots
from isdh.tracking.line_chart import Axis, chart
from tests import synthetic
from tests.test_report import Elements
from tests.tracking.queries import client, run_of, score_queries
from tests.tracking.servers import serving

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

CELL = Cell("digits", "isdh", 24, 0)
METHODS = ("dhn", "dpsh", "isdh")
LABELS = ("sky & sea", "<b>tree</b>", "dog", "nobody's")
ASKED = np.random.default_rng(2).random((60, 4)) < [0.7, 0.3, 0.2, 0]  # (queries, labels)
DATABASE = 140


def carried(labels: np.ndarray = ASKED, names: tuple[str, ...] = LABELS) -> dict[str, Any]:
    """What `evaluate` puts beside the scores."""
    return {
        "query_labels": np.packbits(labels, axis=1, bitorder="little"),
        "label_names": np.array(names),
        "database_size": DATABASE,
    }


def values_of(cell: Cell) -> np.ndarray:
    """Scores of the queries of a cell, the later methods of METHODS better."""
    place = METHODS.index(cell.method) if cell.method in METHODS else 0
    noise = np.random.default_rng([cell.bits, cell.seed, place]).normal(0, 0.05, len(ASKED))
    return 0.3 + 0.1 * place + cell.bits / 200 + noise


def write_cells(workspace: Workspace, **arrays: Any) -> Params:
    """Three methods, two code lengths, two seeds, with curves; `arrays` beside the scores."""
    changes = {"methods": list(METHODS), "method": {name: {} for name in METHODS}}
    _, settings = synthetic.write_workspace(workspace.root, **changes)
    for cell in settings.cells("digits"):
        history = synthetic.history(cell)
        seconds = 2.0 * (1 + METHODS.index(cell.method)) + cell.seed
        history["totals"]["training_seconds"] = seconds
        write_json(workspace.model(cell) / "history.json", history)
        curves = {
            "precision_by_radius": np.linspace(0.9, 0.2, cell.bits + 1),
            "recall_by_radius": np.linspace(0, 1, cell.bits + 1),
        }
        score_queries(workspace, cell, values_of(cell), **curves, **arrays)
    return settings


@pytest.fixture
def published(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    settings = write_cells(workspace, **carried())
    tracking.publish_all(workspace, settings)
    monkeypatch.chdir(workspace.root)
    return workspace


def page_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["isdh", "compare", "--html", "page.html", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    return Path("page.html").read_text(encoding="utf-8")


def drawings(page: str) -> dict[str, str]:
    """Which -> what it shows in words."""
    found = [e for tag, e in Elements(page).found if tag == "svg" and e.get("aria-label")]
    return {str(e["id"]).removeprefix("digits-"): str(e["aria-label"]) for e in found}


def mean_of(method: str, bits: int) -> float:
    return float(np.mean([values_of(Cell("digits", method, bits, seed)) for seed in (0, 1)]))


# ---------------------------------------------------------------- the page


def test_the_page_draws_a_metric_by_length_time_label_bytes_and_search(published, monkeypatch):
    monkeypatch.setattr(comparison_page, "milliseconds", lambda bits, size: bits + size / 1000)
    told = drawings(page_of(monkeypatch))
    kinds = ("length", "time", "label", "bytes", "search")
    assert list(told) == [f"ndcg_at_100-{kind}" for kind in kinds]
    means = {m: [f"{mean_of(m, bits):.3f}" for bits in (12, 24)] for m in METHODS}
    assert told["ndcg_at_100-length"] == "NDCG@100 at 12, 24 bits: " + "; ".join(
        f"{m} {', '.join(means[m])}" for m in reversed(METHODS)
    )
    seconds = {"dhn": "2.5", "dpsh": "4.5", "isdh": "6.5"}  # mean over the seeds
    for method, (short, long) in means.items():
        expected = f"{method} {short} in {seconds[method]} s, {long} in {seconds[method]} s"
        assert expected in told["ndcg_at_100-time"]
    best = means["isdh"]
    assert told["ndcg_at_100-bytes"] == (
        "NDCG@100 by bytes an image, MB a million: "
        f"12 bits 2: isdh {best[0]}, isdh {best[0]}; 24 bits 3: isdh {best[1]}, isdh {best[1]}"
    )
    assert "12 bits 12.1: isdh" in told["ndcg_at_100-search"]
    assert "24 bits 24.1: isdh" in told["ndcg_at_100-search"]


def test_scores_by_label_are_means_over_the_queries_that_carry_it_and_seeds(published, monkeypatch):
    told = drawings(page_of(monkeypatch))["ndcg_at_100-label"]
    expected = []
    for label in sorted(range(3), key=lambda label: -ASKED[:, label].sum()):
        scores = []
        for method in METHODS:
            found = [
                values_of(Cell("digits", method, 24, seed))[query]
                for seed in (0, 1)
                for query in range(len(ASKED))
                if ASKED[query, label]
            ]
            scores.append(f"{sum(found) / len(found):.3f}")
        expected.append(f"{LABELS[label]} {', '.join(scores)}")
    assert told == f"NDCG@100 by label, of {', '.join(METHODS)}: {'; '.join(expected)}"


def test_the_page_is_the_same_where_only_mlflow_is_and_a_second_time(
    published, monkeypatch, tmp_path_factory
):
    monkeypatch.setattr(comparison_page, "milliseconds", lambda bits, size: 0.5)
    here = page_of(monkeypatch, "--metric", "ndcg_at_100", "--metric", "map_at_all")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy("params.yaml", elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{published.root}/mlflow.db")
    monkeypatch.chdir(elsewhere)
    assert page_of(monkeypatch, "--metric", "ndcg_at_100", "--metric", "map_at_all") == here


@pytest.mark.slow
def test_the_page_is_the_same_through_a_server_that_keeps_the_files(
    published, monkeypatch, tmp_path_factory
):
    monkeypatch.setattr(comparison_page, "milliseconds", lambda bits, size: 0.5)
    here = page_of(monkeypatch)
    settings = cli._here()[1]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy("params.yaml", elsewhere)
    with serving(elsewhere) as [url]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        client(published).create_experiment("isdh/digits")  # whose files are the server's to keep
        tracking.publish_all(published, settings)
        assert len(list((elsewhere / "artifacts").rglob("*.svg"))) == 36
        monkeypatch.chdir(elsewhere)
        assert page_of(monkeypatch) == here


def test_the_page_with_plots_is_well_formed_asks_for_nothing_and_describes_them(
    published, monkeypatch
):
    page = page_of(monkeypatch, "--metric", "ndcg_at_100", "--metric", "map_at_all")
    parser = Elements(page)
    assert parser.open == []
    ids = [e["id"] for _, e in parser.found if "id" in e]
    assert len(set(ids)) == len(ids)
    referenced = set(re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^)"]+)', page))
    assert referenced <= set(ids)
    targets = [e[k] for _, e in parser.found for k in ("src", "href", "xlink:href") if k in e]
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    for tag, element in parser.found:
        assert tag not in {"script", "b"}  # a label is text
        if tag == "svg":
            assert element.get("aria-label") or element.get("aria-hidden") == "true"


def test_points_and_lines_are_named_and_the_table_has_their_looks(published, monkeypatch):
    page = page_of(monkeypatch)
    for method in METHODS:
        assert f'class="named"><title>{method}</title>' in page
        assert f'class="named"><title>{method}, 24 bits</title>' in page
        assert f'<use href="#key-{method}"/></svg> {method}</th>' in page
    assert 'class="named"><title>best: isdh, 24 bits</title>' in page
    assert "var(--others)" not in page[page.index("<body>") :]
    assert "grey" not in page[page.index("<body>") :]


@pytest.mark.parametrize("lacking", ["query_labels", "label_names", "database_size"])
def test_runs_of_an_earlier_version_have_a_page_that_says_what_adds_the_rest(
    workspace, monkeypatch, lacking
):
    some = {name: array for name, array in carried().items() if name != lacking}
    tracking.publish_all(workspace, write_cells(workspace, **some))
    monkeypatch.chdir(workspace.root)
    page = page_of(monkeypatch)
    kinds = ["length", "time", "label", "bytes", "search"]
    kinds.remove("search" if lacking == "database_size" else "label")
    assert list(drawings(page)) == [f"ndcg_at_100-{kind}" for kind in kinds]
    title = "search times" if lacking == "database_size" else "scores by label"
    assert f"Left out: {title}." in page
    assert "<code>dvc repro evaluate</code>, then <code>isdh publish</code>, add it" in page


def test_a_run_that_is_scored_anew_brings_what_is_lacking(workspace, monkeypatch):
    settings = write_cells(workspace)
    tracking.publish_all(workspace, settings)
    monkeypatch.chdir(workspace.root)
    assert set(drawings(page_of(monkeypatch))) == {
        f"ndcg_at_100-{kind}" for kind in ("length", "time", "bytes")
    }
    score_queries(workspace, CELL, values_of(CELL), **carried())
    tracking.publish(workspace, settings, CELL)
    assert len(drawings(page_of(monkeypatch))) == 5  # others were scored on the same queries


def test_a_score_without_values_per_query_and_a_run_without_seconds_are_left_out(
    workspace, monkeypatch
):
    settings = write_cells(workspace, **carried())
    for cell in settings.cells("digits"):
        history = synthetic.history(cell)
        del history["totals"]
        write_json(workspace.model(cell) / "history.json", history)
    tracking.publish_all(workspace, settings)
    monkeypatch.chdir(workspace.root)
    page = page_of(monkeypatch, "--metric", "map_at_all")
    assert list(drawings(page)) == [f"map_at_all-{kind}" for kind in ("length", "bytes", "search")]
    assert "Left out: scores by label." in page
    assert "No run tells how long its training took." in page


def test_methods_that_were_scored_on_other_data_are_not_among_those_by_label(
    workspace, monkeypatch
):
    settings = write_cells(workspace, **carried())
    others = [cell for cell in settings.cells("digits") if cell.method == "dhn"]
    for cell in others:
        tracking.publish(workspace, settings, cell)
    synthetic.write_data(workspace, version="2")
    for cell in settings.cells("digits"):
        if cell not in others:
            tracking.publish(workspace, settings, cell)
    monkeypatch.chdir(workspace.root)
    told = drawings(page_of(monkeypatch))
    assert "by label, of dpsh, isdh:" in told["ndcg_at_100-label"]
    assert "dhn" in told["ndcg_at_100-length"]


def test_of_many_labels_the_most_frequent_are_drawn_and_the_page_says_so(workspace, monkeypatch):
    names = tuple(f"label {i:02}" for i in range(45))
    labels = np.arange(60)[:, None] <= np.arange(45)[None, :] + 10  # the last are the most frequent
    tracking.publish_all(workspace, write_cells(workspace, **carried(labels, names)))
    monkeypatch.chdir(workspace.root)
    page = page_of(monkeypatch)
    drawing = page[page.index('id="digits-ndcg_at_100-label"') :].partition("</svg>")[0]
    shown = [name for name in names if f">{name}</text>" in drawing]
    assert shown == list(names[5:])
    assert "the 40 most frequent of 45" in page


def test_of_many_methods_the_best_and_isdh_are_in_colour_and_the_others_grey_and_named(
    workspace, monkeypatch
):
    names = sorted(set(methods.METHODS) - {"isdh"})
    changes = {"methods": [*names, "isdh"], "method": {name: {} for name in [*names, "isdh"]}}
    _, settings = synthetic.write_workspace(workspace.root, seeds=[0], **changes)
    for cell in settings.cells("digits"):
        level = names.index(cell.method) / 100 if cell.method in names else 0
        score_queries(workspace, cell, level + 0.1 * ASKED[:, 0], **carried())
    tracking.publish_all(workspace, settings)
    monkeypatch.chdir(workspace.root)
    page = page_of(monkeypatch)
    leading = ["isdh", *names[:-5:-1]]
    for kind, suffix in (("length", ""), ("time", ", 24 bits")):
        drawing = re.search(rf'<svg id="digits-ndcg_at_100-{kind}".*?</svg>', page, re.DOTALL)
        assert drawing
        parts = drawing[0].split('class="named"><title>')[1:]
        grey = {part.partition("<")[0] for part in parts if "var(--others)" in part}
        shown = {f"{name}{suffix}" for name in names if name not in leading}
        assert shown <= grey
        assert not {f"{name}{suffix}" for name in leading} & grey
    assert f"by label, of {', '.join(leading)}:" in drawings(page)["ndcg_at_100-label"]
    assert "the others are thin and grey" in page
    legend = re.findall(r"</svg></span> ([^<]*)</li>", page)
    assert legend == [*leading, "other methods", "the best of each code length"]


def test_a_selection_without_isdh_has_its_plots(published, monkeypatch):
    told = drawings(page_of(monkeypatch, "--method", "dhn", "--method", "dpsh", "--bits", "12"))
    assert len(told) == 5
    assert not [words for words in told.values() if "isdh" in words]


def test_the_page_says_what_was_timed_where(published, monkeypatch):
    text = " ".join(page_of(monkeypatch).split())
    assert f"as many random codes as the database has (digits {DATABASE})" in text
    assert f"on this processor: {hardware()['processor']}" in text
    assert "for the 100 nearest" in text


def test_a_search_is_timed_in_one_thread_and_takes_longer_in_more_codes():
    from threadpoolctl import threadpool_info

    before = [pool["num_threads"] for pool in threadpool_info()]
    small, large = comparison_page.milliseconds(16, 100), comparison_page.milliseconds(64, 200_000)
    assert 0 < small < large
    assert [pool["num_threads"] for pool in threadpool_info()][: len(before)] == before


def test_a_look_is_free_for_each_method_even_where_there_are_more_than_looks():
    looks = emphasis.distinct([[f"m{i}" for i in range(svg.LOOKS + 3)]])
    assert len(set(looks.values())) == svg.LOOKS


# ---------------------------------------------------------------- what a run carries


def test_evaluate_puts_labels_of_queries_and_the_databases_size_beside_the_scores(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    labels = np.random.default_rng(0).random((9, 11)) < 0.5
    names = [f"label {i}" for i in range(11)]
    splits = ["query", "train", "database"] * 3
    columns = {
        "image": list("abcdefghi"),
        "path": list("abcdefghi"),
        "split": splits,
        "also_database": [split == "train" and i < 3 for i, split in enumerate(splits)],
        "sha256": ["0"] * 9,
    }
    frame = pd.DataFrame(columns | dict(zip(names, labels.T, strict=True)))
    write_array(Workspace().data("digits") / "labels.npy", labels)
    frame.to_parquet(Workspace().manifest("digits"), index=False)
    found = evaluate.asked(CELL)
    assert found["label_names"].tolist() == names
    assert found["database_size"] == 4
    assert found["query_labels"].dtype == np.uint8
    unpacked = np.unpackbits(found["query_labels"], axis=1, count=11, bitorder="little")
    assert np.array_equal(unpacked, labels[[0, 3, 6]])


# ---------------------------------------------------------------- the plots that a run keeps


def plots_of(workspace: Workspace, cell: Cell = CELL) -> dict[str, str]:
    folder = workspace.root / "mlartifacts" / "digits" / run_of(workspace, cell) / "artifacts/plots"
    return {path.name: path.read_text("utf-8") for path in sorted(folder.glob("*"))}


def test_a_scored_run_keeps_its_curves_as_pictures_of_their_own(published):
    found = plots_of(published)
    assert list(found) == ["loss.svg", "precision-recall.svg", "radius.svg"]
    listed = client(published).list_artifacts(run_of(published, CELL), "plots")
    assert [Path(each.path).name for each in listed] == list(found)
    for document in found.values():
        root = ElementTree.fromstring(document)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        ground = root.find("{http://www.w3.org/2000/svg}rect")
        assert ground is not None
        assert ground.get("fill") == "#ffffff"
        assert "var(" not in document
        assert "http" not in document.replace("http://www.w3.org/2000/svg", "")
    titles = {
        name: ElementTree.fromstring(document)[0].text or "" for name, document in found.items()
    }
    assert titles["loss.svg"] == "Loss over 3 epochs: 1 to 0.333"
    assert titles["radius.svg"].startswith("Precision and recall at 24 bits within radius 2, 6, 12")


def test_publishing_again_draws_nothing_until_scores_or_drawing_change(published, monkeypatch):
    settings = cli._here()[1]
    drawn: list[str] = []
    draw = run_plots.draw

    def count(*args: Any) -> dict[str, str]:
        drawn.append("")
        return draw(*args)

    monkeypatch.setattr(run_plots, "draw", count)
    assert tracking.publish_all(published, settings) == tracking.Published(0, 12)
    tracking.publish(published, settings, CELL)
    assert drawn == []
    write_json(published.scores(CELL), read_json(published.scores(CELL)) | {"map_at_all": 0.75})
    assert tracking.publish_all(published, settings) == tracking.Published(1, 11)
    assert drawn == []  # a mean moved, no curve
    before = plots_of(published)
    curves = {f"{name}_by_radius": np.full(25, 0.5) for name in ("precision", "recall")}
    score_queries(published, CELL, values_of(CELL), **curves)
    assert tracking.publish_all(published, settings) == tracking.Published(1, 11)
    assert len(drawn) == 1
    after = plots_of(published)
    assert after["loss.svg"] == before["loss.svg"]
    assert after["radius.svg"] != before["radius.svg"]
    monkeypatch.setattr(run_plots, "VERSION", run_plots.VERSION + 1)
    assert tracking.publish_all(published, settings) == tracking.Published(12, 0)
    assert len(drawn) == 13


def test_a_plot_that_was_lost_is_drawn_again(published):
    settings = cli._here()[1]
    before = plots_of(published)
    number = run_of(published, CELL)
    (published.root / "mlartifacts/digits" / number / "artifacts/plots/radius.svg").unlink()
    assert tracking.publish_all(published, settings) == tracking.Published(1, 11)
    assert plots_of(published) == before
    assert tracking.publish_all(published, settings) == tracking.Published(0, 12)


def test_a_run_that_is_not_scored_or_had_one_epoch_has_no_such_plots(workspace, small):
    scored = Cell("digits", "isdh", 12, 0)
    workspace.scores(scored).unlink()
    tracking.publish(workspace, small, scored)
    assert plots_of(workspace, scored) == {}
    score_queries(workspace, scored, np.zeros(3))
    tracking.publish(workspace, small, scored)
    assert list(plots_of(workspace, scored)) == ["loss.svg"]
    fitted = Cell("digits", "dhn", 12, 0)
    write_json(workspace.model(fitted) / "history.json", synthetic.history(fitted, epochs=1))
    tracking.publish(workspace, small, fitted)
    assert plots_of(workspace, fitted) == {}
    assert tracking.publish_all(workspace, small) == tracking.Published(0, 2)


def test_publishing_imports_no_matplotlib(published):
    score_queries(published, CELL, values_of(CELL))
    code = (
        "import sys; sys.argv = ['isdh', 'publish']\n"
        "from isdh.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "1 cells written, 11 unchanged" in done.stdout
    assert "matplotlib" not in done.stderr.split()


def test_a_chart_has_its_points_where_they_belong_and_the_colours_of_a_light_page():
    sheet = (Path(svg.__file__).parents[1] / "templates" / "report.css").read_text("utf-8")
    colours = re.findall(r"--series-1: (#\w+)", sheet)  # on a light ground, on a dark one
    lines = {"a": [(0.0, 1.0)], "b & c": [(0.0, 1.0), (5.0, 10.0), (10.0, 100.0)]}
    x, y = Axis("time", 0, 10), Axis("loss", 1, 100, logarithmic=True)
    document = chart(lines, x, y, alt="a & b")
    root = ElementTree.fromstring(document)
    space = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{space}title") == "a & b"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"time", "loss", "b & c", "0", "10", "1", "100"} <= set(texts)
    line = root.findall(f"{space}polyline")[1]
    assert line.get("stroke") == colours[0] != colours[1]
    places = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    (left, bottom), middle, (right, top) = places
    assert middle == ((left + right) / 2, (top + bottom) / 2)
    assert (left < right, top < bottom) == (True, True)
