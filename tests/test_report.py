"""A small workspace as the stages leave it -> the page that a colleague is shown."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from isdh import artifacts, codes, duplicates, metrics, report
from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError
from isdh.images import decode
from isdh.params import Params
from isdh.report import emphasis, plots, svg, tables, vocabulary
from isdh.report.evidence import read
from isdh.report.gallery import NEIGHBOURS, QUERIES, gallery
from isdh.settings import Evaluate
from isdh.statistics import describe

DATASET = "shapes"
LABELS = ("sky & sea", "<b>tree</b>", 'a "quote"', "dog", "night")


@dataclass(frozen=True)
class Sizes:
    """How large a synthetic workspace is."""

    train: int = 24
    query: int = 13
    database: int = 40
    side: int = 16
    labels: tuple[str, ...] = LABELS


def settings(methods: tuple[str, ...], bits: tuple[int, ...], seeds: tuple[int, ...]) -> Params:
    """The parameters that the report reads; what concerns other stages is left out."""
    return Params.model_construct(
        datasets={DATASET: f"raw/{DATASET}"},
        methods=methods,
        bits=bits,
        seeds=seeds,
        evaluate=Evaluate(cutoffs=(10, 20, None)),
    )


def write_workspace(root: Path, params: Params, sizes: Sizes = Sizes()) -> Workspace:
    """Pictures, manifest, statistics, and codes, scores and histories of each cell."""
    rng = np.random.default_rng(0)
    workspace = Workspace(root)
    count = sizes.train + sizes.query + sizes.database
    labels = rng.random((count, len(sizes.labels))) < 2.2 / len(sizes.labels)
    labels[np.arange(count), rng.integers(len(sizes.labels), size=count)] = True
    splits = np.repeat(["train", "query", "database"], [sizes.train, sizes.query, sizes.database])
    manifest = pd.DataFrame(
        {
            "image": [f"image {row}" for row in range(count)],
            "path": [f"pictures/{row}.png" for row in range(count)],
            "split": splits,
            "also_database": (splits == "train") & (np.arange(count) % 2 == 0),
            "sha256": [f"{row:064x}" for row in range(count)],
        }
        | dict(zip(sizes.labels, labels.T, strict=True))
    )
    workspace.data(DATASET).mkdir(parents=True)
    manifest.to_parquet(workspace.manifest(DATASET))
    artifacts.write_array(workspace.data(DATASET) / "labels.npy", labels)
    write_pictures(workspace.raw(DATASET), labels, sizes.side, rng)
    manifest.attrs["unlabelled"] = 3
    statistics = describe(manifest, read_small(workspace, manifest))
    artifacts.write_json(workspace.data(DATASET) / "statistics.json", statistics)
    for cell in params.cells(DATASET):
        write_cell(workspace, params, cell, labels, manifest)
    return workspace


def write_pictures(folder: Path, labels: np.ndarray, side: int, rng: np.random.Generator) -> None:
    (folder / "pictures").mkdir(parents=True)
    colors = rng.integers(40, 255, size=(labels.shape[1], 3))
    for row, present in enumerate(labels):
        pixels = rng.integers(0, 40, size=(side, side, 3))
        for label in np.flatnonzero(present):
            x, y = rng.integers(0, side // 2, size=2)
            pixels[y : y + side // 3, x : x + side // 3] = colors[label]
        picture = Image.fromarray(pixels.astype(np.uint8))
        picture.save(folder / "pictures" / f"{row}.png")


def read_small(workspace: Workspace, manifest: pd.DataFrame) -> np.ndarray:
    """The small grey pictures that near copies are found by."""
    files = [workspace.raw(DATASET) / path for path in manifest["path"]]
    pictures = [decode(file.read_bytes(), size=duplicates.SIDE, channels=1) for file in files]
    return np.array(pictures)[..., 0]


def write_cell(
    workspace: Workspace, params: Params, cell: Cell, labels: np.ndarray, manifest: pd.DataFrame
) -> None:
    """One cell whose codes follow the labels, the later methods of the list less closely."""
    noise = 1 + 0.5 * params.methods.index(cell.method)
    rng = np.random.default_rng([cell.bits, cell.seed, params.methods.index(cell.method)])
    outputs = (labels - labels.mean(axis=0)) @ rng.normal(size=(labels.shape[1], cell.bits))
    packed = codes.pack(outputs + noise * rng.normal(size=outputs.shape))
    artifacts.write_codes(workspace.codes(cell), packed, bits=cell.bits, weights_sha256="0" * 64)
    query = (manifest["split"] == "query").to_numpy()
    searched = ((manifest["split"] == "database") | manifest["also_database"]).to_numpy()
    scores = metrics.evaluate(
        packed[query],
        labels[query],
        packed[searched],
        labels[searched],
        bits=cell.bits,
        cutoffs=params.evaluate.cutoffs,
    )
    artifacts.write_json(workspace.scores(cell), scores.as_dict())
    with artifacts.replacing(workspace.scores(cell).with_suffix(".npz")) as stream:
        np.savez(
            stream,
            weights_sha256="0" * 64,
            precision_by_radius=scores.precision_by_radius,
            recall_by_radius=scores.recall_by_radius,
            **scores.per_query,
            query_labels=np.packbits(labels[query], axis=1, bitorder="little"),
            label_names=np.array(manifest.columns[-labels.shape[1] :].tolist()),
            database_size=int(searched.sum()),
        )
    epochs = [
        {"epoch": epoch, "timestamp": 0, "loss": noise / epoch + 0.1 * rng.random(), "seconds": 1.5}
        for epoch in range(1, 9)
    ]
    history = {
        "fingerprint": "0",
        "method": {"name": cell.method, "gamma": 10.0},
        "training": {"epochs": 8, "batch_size": 64},
        "totals": {"training_seconds": 12.0},
        "epochs": epochs,
    }
    artifacts.write_json(workspace.model(cell) / "history.json", history)


PARAMS = settings(("isdh", "dhn", "idhn"), (8, 20), (0, 1))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = write_workspace(tmp_path_factory.mktemp("report"), PARAMS)
    report.build(workspace, PARAMS, DATASET)
    return workspace


@pytest.fixture(scope="module")
def page(built: Workspace) -> str:
    return (built.report(DATASET) / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def workspace(built: Workspace, tmp_path: Path) -> Workspace:
    """A copy that a test may damage."""
    shutil.copytree(built.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


class Elements(HTMLParser):
    """Every element's tag and attributes, in order; all that are opened are closed."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> repeats an attribute"
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_makes_no_request(page: str) -> None:
    elements = Elements(page).found
    targets = [e[k] for _, e in elements for k in ("src", "href", "xlink:href") if k in e]
    assert len(targets) > 10
    assert all(target.startswith(("#", "data:")) for target in targets if target)
    assert not {tag for tag, _ in elements} & {"script", "iframe", "object", "embed", "base"}
    assert not re.search(r"https?:|@import|url\((?!#)", page)


def test_the_page_is_well_formed_and_its_references_lead_somewhere(page: str) -> None:
    parser = Elements(page)
    assert parser.open == []
    ids = [element["id"] for _, element in parser.found if "id" in element]
    assert len(set(ids)) == len(ids)
    referenced = set(re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^)"]+)', page))
    assert referenced
    assert referenced <= set(ids)


def test_pictures_and_drawings_are_described_and_header_cells_have_a_scope(page: str) -> None:
    elements = Elements(page).found
    for tag, element in elements:
        if tag == "img":
            assert element["alt"]
        if tag == "th":
            assert element["scope"] in ("row", "col")
        if tag == "svg":
            assert element.get("aria-label") or element.get("aria-hidden") == "true"


def test_the_same_files_give_the_same_bytes_wherever_they_lie(
    workspace: Workspace, page: str
) -> None:
    assert report.build(workspace, PARAMS, DATASET).read_bytes() == page.encode()


def test_a_changed_score_changes_the_page(workspace: Workspace, page: str) -> None:
    path = workspace.scores(PARAMS.cells(DATASET)[0])
    scores = json.loads(path.read_text())
    path.write_text(json.dumps(scores | {"recall_at_20": scores["recall_at_20"] + 0.01}))
    assert report.build(workspace, PARAMS, DATASET).read_bytes() != page.encode()


def test_of_a_cells_arrays_the_scores_and_curves_are_evidence(built: Workspace) -> None:
    evidence = read(built, PARAMS, DATASET)
    for cell in PARAMS.cells(DATASET):
        expected = {*evidence.scores[cell], "precision_by_radius", "recall_by_radius"}
        assert set(evidence.arrays[cell]) == expected - {"queries_without_relevant"}


def test_every_score_of_every_cell_stands_in_the_page(built: Workspace, page: str) -> None:
    for cell in PARAMS.cells(DATASET):
        row = re.search(rf'<th scope="row">{cell.name}</th>(.*?)</tr>', page, re.DOTALL)
        assert row
        shown = re.findall(r"<td>([^<]*)</td>", row[1])
        scores = json.loads(built.scores(cell).read_text())
        expected = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in scores.values()]
        assert shown == [*expected, "8", "12.0"]


def test_the_tables_hold_means_and_sample_deviations_over_seeds(
    built: Workspace, page: str
) -> None:
    for metric in ("map_at_20", "map_at_all", "wap_at_20", "ndcg_at_20", "precision_within_r2"):
        for method in PARAMS.methods:
            for bits in PARAMS.bits:
                values = [
                    json.loads(built.scores(Cell(DATASET, method, bits, seed)).read_text())[metric]
                    for seed in PARAMS.seeds
                ]
                mean, deviation = np.mean(values), np.std(values, ddof=1)
                assert re.search(rf"{mean:.3f}(</strong>)? <small>±{deviation:.3f}</small>", page)


def test_the_best_of_a_column_is_marked_and_no_other(built: Workspace, page: str) -> None:
    evidence = read(built, PARAMS, DATASET)
    metrics_shown = vocabulary.principal(evidence.chance)
    marked = 0
    for metric in metrics_shown:
        rows = tables.table(evidence, metric).rows
        for entries in zip(*rows.values(), strict=True):
            highest = max(round(entry.mean, 3) for entry in entries)
            assert [entry.best for entry in entries] == [
                round(entry.mean, 3) == highest for entry in entries
            ]
            marked += sum(entry.best for entry in entries)
    assert marked >= len(metrics_shown) * len(PARAMS.bits)
    assert page.count('<td class="best">') == marked


def test_a_method_that_does_not_differ_from_the_best_over_the_queries_is_level_with_it() -> None:
    rng = np.random.default_rng(0)
    queries = rng.random(200)
    values = {
        "isdh": queries,
        "dhn": queries - 0.002 + 0.1 * rng.normal(size=200),  # below, within noise
        "idhn": queries - 0.05 + 0.1 * rng.normal(size=200),  # below, beyond noise
    }
    evidence = read_like(values)
    level = {
        m: entries[0].level for m, entries in tables.table(evidence, "map_at_all").rows.items()
    }
    assert level == {"isdh": False, "dhn": True, "idhn": False}


def test_what_differs_in_training_stands_with_its_method_and_the_rest_once(built) -> None:
    from isdh.report.page import _settings, _shared_training

    evidence = read(built, PARAMS, DATASET)
    usual = next(iter(evidence.histories.values()))["training"]
    changed = {
        cell: history | {"training": usual | {"epochs": 0.5}} if cell.method == "dhn" else history
        for cell, history in evidence.histories.items()
    }
    mixed = replace(evidence, histories=changed)
    assert _shared_training(evidence) == usual
    assert _shared_training(mixed) == {k: v for k, v in usual.items() if k != "epochs"}
    rates = {name: of.get("epochs") for name, of in _settings(mixed).items()}
    assert rates == {name: 0.5 if name == "dhn" else usual["epochs"] for name in rates}
    assert "epochs" not in _settings(evidence)["dhn"]


def test_nothing_is_marked_where_all_methods_are_alike() -> None:
    evidence = read_like({"isdh": np.zeros(9), "dhn": np.zeros(9)})
    entries = [row[0] for row in tables.table(evidence, "map_at_all").rows.values()]
    assert not any(entry.best or entry.level for entry in entries)


def read_like(values: dict[str, np.ndarray]) -> Any:
    """Evidence of one metric, one code length and one seed: method -> values per query."""
    cells = {method: Cell(DATASET, method, 8, 0) for method in values}
    return SimpleNamespace(
        methods=tuple(values),
        bits=(8,),
        chance={},
        scores={cells[m]: {"map_at_all": float(v.mean())} for m, v in values.items()},
        arrays={cells[m]: {"map_at_all": v} for m, v in values.items()},
        runs=lambda method, bits: [cells[method]],
    )


def test_the_chance_level_is_that_of_a_random_ranking(built: Workspace, page: str) -> None:
    evidence = read(built, PARAMS, DATASET)
    shared = evidence.labels[evidence.queries].astype(int) @ evidence.labels[evidence.database].T
    assert evidence.chance["precision_at_10"] == pytest.approx((shared > 0).mean())
    assert evidence.chance["acg_at_10"] == pytest.approx(shared.mean())
    assert evidence.chance["precision_within_r2"] == pytest.approx((shared > 0).mean())
    rng = np.random.default_rng(0)
    hits = np.stack([rng.permutation(row) for row in shared > 0 for _ in range(400)])
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    average_precision = (precision * hits).sum(axis=1) / hits.sum(axis=1).clip(min=1)
    assert evidence.chance["map_at_all"] == pytest.approx(average_precision.mean(), abs=0.005)
    assert f'<td colspan="2">{evidence.chance["map_at_all"]:.3f}</td>' in page


def test_files_of_removed_cells_are_passed_over(workspace: Workspace) -> None:
    fewer = settings(("isdh", "dhn"), (8,), (0,))
    for folder in ("metrics", "codes", "models"):
        for path in (workspace.root / folder / DATASET).glob("*idhn-*"):
            path.write_text("broken") if path.is_file() else shutil.rmtree(path)
    page = report.build(workspace, fewer, DATASET).read_text(encoding="utf-8")
    assert "isdh-8-0" in page
    assert "idhn" not in page
    assert "isdh-8-1" not in page
    assert "isdh-20-0" not in page


@pytest.mark.parametrize(
    "path",
    [
        "metrics/shapes/dhn-8-1.json",
        "metrics/shapes/dhn-8-1.npz",
        "models/shapes/idhn-8-0/history.json",
        "codes/shapes/isdh-20-0/codes.npy",
        "data/shapes/manifest.parquet",
        "data/shapes/statistics.json",
        "data/shapes/labels.npy",
    ],
)
def test_a_missing_file_is_named(workspace: Workspace, path: str) -> None:
    (workspace.root / path).unlink()
    with pytest.raises(InputError, match=rf"{path}: no such file; run `dvc repro`"):
        report.build(workspace, PARAMS, DATASET)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("metrics/shapes/dhn-8-1.npz", "not NumPy arrays"),
        ("raw/shapes/pictures/24.png", "no image"),  # the first query
    ],
)
def test_a_broken_file_is_named(workspace: Workspace, path: str, complaint: str) -> None:
    (workspace.root / path).write_bytes(b"PK\3\4 broken")
    with pytest.raises(InputError, match=rf"{path}: {complaint}"):
        report.build(workspace, PARAMS, DATASET)


def test_a_missing_picture_is_to_be_restored(workspace: Workspace) -> None:
    (workspace.raw(DATASET) / "pictures" / "24.png").unlink()
    with pytest.raises(InputError, match=r"24.png: No such file .*; restore it below .*shapes$"):
        report.build(workspace, PARAMS, DATASET)


def test_the_gallery_shows_what_the_network_saw(workspace: Workspace) -> None:
    """Stored on its side with a black, transparent half: shown upright, that half white."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8] = 0, 0, 255, 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored top is the right side
    path = workspace.raw(DATASET) / "pictures" / "24.png"
    Image.fromarray(pixels).save(path, exif=exif)
    shown = gallery(workspace, read(workspace, PARAMS, DATASET))[0].picture
    stored = base64.b64decode(shown.source.partition(",")[2])
    with Image.open(io.BytesIO(stored)) as opened:
        seen = np.asarray(opened.convert("RGB")).astype(int)
    wanted = decode(path.read_bytes(), size=16, channels=3).astype(int)
    assert wanted[:, :8].min() == 255
    assert np.abs(seen - wanted)[:, [2, 13]].max() <= 12  # WebP, away from the edge of colours
    assert shown.small


def test_an_unknown_dataset_is_refused(built: Workspace) -> None:
    with pytest.raises(InputError, match="unknown dataset 'shape', did you mean 'shapes'"):
        report.build(built, PARAMS, "shape")


def test_the_gallery_shows_evenly_spaced_queries_and_their_nearest_pictures(
    built: Workspace,
) -> None:
    evidence = read(built, PARAMS, DATASET)
    queries = gallery(built, evidence)
    rows = evidence.queries[[0, 2, 4, 6, 8, 10]]  # 6 of 13
    assert [query.image for query in queries] == [f"image {row}" for row in rows]
    assert len(queries) == QUERIES
    for query, row in zip(queries, rows, strict=True):
        assert [answer.cell.name for answer in query.answers] == ["isdh-20-0", "dhn-20-0"]
        for answer in query.answers:
            packed = artifacts.read_codes(built.codes(answer.cell), bits=20)
            distances = codes.hamming_distances(
                packed[[row]], packed[evidence.database], bits=20
            ).ravel()
            assert [far for far, _ in answer.neighbours] == sorted(distances)[:NEIGHBOURS]
            nearest = evidence.database[np.argsort(distances, kind="stable")[:NEIGHBOURS]]
            for (_, picture), other in zip(answer.neighbours, nearest, strict=True):
                both = evidence.labels[row] & evidence.labels[other]
                assert {name for name, shared in picture.labels if shared} == {
                    LABELS[i] for i in np.flatnonzero(both)
                }
                assert {name for name, _ in picture.labels} == {
                    LABELS[i] for i in np.flatnonzero(evidence.labels[other])
                }


def test_the_gallery_marks_shared_labels_and_no_others(built: Workspace, page: str) -> None:
    queries = gallery(built, read(built, PARAMS, DATASET))
    pictures = [p for query in queries for answer in query.answers for _, p in answer.neighbours]
    shared = sum(p.shared for p in pictures) + sum(len(query.picture.labels) for query in queries)
    inside = page[page.index('id="gallery"') : page.index('id="training"')]
    legend = 1  # "Labels shared with the query are marked"
    assert inside.count("<mark>") == shared + legend
    assert inside.count('<li class="relevant">') == sum(p.shared > 0 for p in pictures)
    assert inside.count('<li class="missed">') == sum(p.shared == 0 for p in pictures)


def test_the_gallery_states_the_chance_of_each_query(built: Workspace, page: str) -> None:
    evidence = read(built, PARAMS, DATASET)
    row = evidence.queries[0]
    shared = evidence.labels[evidence.database].astype(int) @ evidence.labels[row]
    chance = f"{100 * (shared > 0).mean():.1f}\N{NARROW NO-BREAK SPACE}%"
    assert f"At random, {chance} of pictures are relevant" in page


def section(page: str, name: str, following: str) -> str:
    """The page from one heading to another, without line breaks."""
    return page[page.index(f'id="{name}"') : page.index(f'id="{following}"')].replace("\n", "")


def cells_of(table: str) -> list[list[str]]:
    """What stands in the rows of a table, tags left out."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[unescape(re.sub(r"<[^>]*>", "", cell).strip()) for cell in row] for row in cells]


def captioned(page: str, caption: str) -> list[list[str]]:
    data = section(page, "data", "numbers")
    return cells_of(data[data.index(caption) :].partition("</table>")[0])


def test_the_data_section_has_the_rows_of_each_label_by_split(built: Workspace, page: str) -> None:
    evidence = read(built, PARAMS, DATASET)
    frame = pd.read_parquet(built.manifest(DATASET))
    parts = [np.flatnonzero(frame["split"] == "train"), evidence.queries, evidence.database]
    head, total, *rows = captioned(page, "Rows by label and split<")
    assert head == ["label", "training", "queries", "database"]
    assert total == ["all rows", "24", "13", "52"]
    found = {row[0]: [int(cell) for cell in row[1:]] for row in rows}
    assert found == {
        name: [int(evidence.labels[part, column].sum()) for part in parts]
        for column, name in enumerate(LABELS)
    }
    totals = [evidence.labels[:, LABELS.index(name)].sum() for name in found]
    assert totals == sorted(totals, reverse=True)


def test_the_data_section_draws_labels_by_split_and_pairs(built: Workspace, page: str) -> None:
    statistics = read(built, PARAMS, DATASET).statistics
    drawing = re.search(r'<svg id="labels-by-split".*?</svg>', page, re.DOTALL)
    assert drawing
    assert drawing[0].count("<use ") >= 3 * len(LABELS)  # a mark a label and split
    alt = re.search(r'aria-label="(Labels in %[^"]*)"', drawing[0])
    assert alt
    share = 100 * statistics["labels_by_split"]["query"]["dog"] / 13
    assert (
        f"dog {100 * statistics['labels_by_split']['train']['dog'] / 24:.1f}, {share:.1f}, "
        in alt[1]
    )
    shares = captioned(page, "Shares of pairs by instance similarity<")[1:]
    for row, pairs in zip(shares, (statistics["query_pairs"], statistics["pairs"]), strict=True):
        wanted = [f"{100 * pairs[kind]:.1f}" for kind in ("none", "some", "all")]
        assert [cell.partition("\N{NARROW NO-BREAK SPACE}")[0] for cell in row[1:]] == wanted
    bars = re.findall(r'role="img" aria-label="(Queries with|Training pictures with)', page)
    assert bars == ["Queries with", "Training pictures with"]


def test_the_data_section_has_the_chance_level_of_every_metric(built: Workspace, page: str) -> None:
    chance = read(built, PARAMS, DATASET).chance
    head, *rows = captioned(page, "Expected score of a random ranking")
    assert head == ["at", "10", "20", "all"]
    assert [row[0] for row in rows] == [kind.title for kind in vocabulary.KINDS.values()]
    for name, row in zip(vocabulary.KINDS, rows, strict=True):
        assert row[1:] == [f"{chance[f'{name}_at_{k}']:.3f}" for k in (10, 20, "all")]


def test_copies_across_splits_are_told_with_examples(workspace: Workspace, page: str) -> None:
    copies = captioned(page, "Rows whose picture stands in another split")
    assert copies[1] == ["queries", "13", "database", "0", "0"]
    frame = pd.read_parquet(workspace.manifest(DATASET))
    frame.attrs["unlabelled"] = 0
    frame.loc[[25, 60], "sha256"] = "f" * 64  # a query and a database row
    small = read_small(workspace, frame)
    small[61] = small[26] // 2 + 9
    small[62] = small[26]
    path = workspace.data(DATASET) / "statistics.json"
    artifacts.write_json(path, describe(frame, small))
    page = report.build(workspace, PARAMS, DATASET).read_text(encoding="utf-8")
    found = captioned(page, "Rows whose picture stands in another split")[1]
    assert found[3] == "1 image 25 = image 60"
    assert found[4] == "1 image 26 ≈ image 62 (1.000), image 26 ≈ image 61 (1.000)"
    assert Elements(page).open == []
    artifacts.write_json(path, describe(frame))
    page = report.build(workspace, PARAMS, DATASET).read_text(encoding="utf-8")
    found = captioned(page, "Rows whose picture stands in another split")[1]
    assert found[4] == "not looked for"
    assert "Nearly the same" not in page


def test_of_many_labels_the_drawing_has_the_most_frequent_and_the_table_all(tmp_path: Path) -> None:
    alone = settings(("isdh",), (8,), (0,))
    names = tuple(f"label {i}" for i in range(45))
    workspace = write_workspace(tmp_path, alone, Sizes(query=3, labels=names))
    page = report.build(workspace, alone, DATASET).read_text(encoding="utf-8")
    assert "the 40 most frequent of 45" in page
    first = captioned(page, "Rows by label and split<")[2:]
    rest = captioned(page, "Rows by label and split, less frequent labels")[1:]
    assert (len(first), len(rest)) == (40, 5)
    assert {row[0] for row in (*first, *rest)} == set(names)
    assert Elements(page).open == []


def test_labels_are_text_not_markup(page: str) -> None:
    assert "<b>tree" not in page
    assert "&lt;b&gt;tree&lt;/b&gt;" in page
    assert "sky &amp; sea" in page
    assert 'alt="a "' not in page


def test_one_method_at_one_code_length_has_a_report(tmp_path: Path) -> None:
    alone = settings(("isdh",), (8,), (0,))
    workspace = write_workspace(tmp_path, alone, Sizes(query=3, database=2, train=4))
    page = report.build(workspace, alone, DATASET).read_text(encoding="utf-8")
    assert Elements(page).open == []
    assert "<strong>isdh</strong>" in page
    assert '<td class="best">' not in page
    assert "±" not in page
    assert "Beyond the size of the database, here @10 and @20, the whole of it is meant." in page


def test_the_order_of_code_lengths_in_the_parameters_does_not_tangle_the_lines(
    built: Workspace,
) -> None:
    def line(bits: tuple[int, ...]) -> list[str]:
        evidence = read(built, settings(PARAMS.methods, bits, PARAMS.seeds), DATASET)
        table = tables.table(evidence, "map_at_all")
        means = {
            method: {b: (entry.mean, entry.deviation) for b, entry in zip(bits, row, strict=True)}
            for method, row in table.rows.items()
        }
        drawing = plots.by_code_length("map_at_all", means, table.looks).markup
        return re.findall(r'<path d="([^"]*)"', drawing)

    assert line((20, 8)) == line((8, 20))


def test_a_method_without_epochs_has_no_loss_curve(workspace: Workspace, page: str) -> None:
    assert 'id="loss-isdh"' in page
    assert 'id="loss-dhn"' in page
    for seed in PARAMS.seeds:
        path = workspace.model(Cell(DATASET, "dhn", 20, seed)) / "history.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": []}))
    page = report.build(workspace, PARAMS, DATASET).read_text(encoding="utf-8")
    assert 'id="loss-isdh"' in page
    assert 'id="loss-dhn"' not in page


def test_the_leading_metrics_are_the_customary_ones_or_those_nearest_to_them() -> None:
    kinds = ("map", "wap", "acg", "ndcg", "precision", "recall")
    default = [f"{kind}_at_{k}" for kind in kinds for k in (100, 1000, 5000, "all")]
    assert vocabulary.principal([*default, "precision_within_r2"]) == [
        "map_at_5000",
        "map_at_all",
        "wap_at_5000",
        "acg_at_100",
        "ndcg_at_100",
        "precision_within_r2",
    ]
    assert vocabulary.principal([f"{kind}_at_all" for kind in kinds]) == [
        "map_at_all",
        "wap_at_all",
        "acg_at_all",
        "ndcg_at_all",
    ]


# The later a method stands here, the noisier its codes: isdh is the worst, and no order is that
# of the alphabet.
MANY = settings(("m9", "m2", "m7", "m4", "m6", "m1", "m8", "m3", "m5", "isdh"), (8, 20), (0, 1))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = write_workspace(tmp_path_factory.mktemp("many"), MANY)
    for cell in MANY.cells(DATASET):  # one metric has bests of its own
        path = workspace.scores(cell)
        place = MANY.methods.index(cell.method)
        artifacts.write_json(path, json.loads(path.read_text()) | {"acg_at_20": float(place)})
    report.build(workspace, MANY, DATASET)
    return workspace


@pytest.fixture(scope="module")
def crowded(many: Workspace) -> str:
    return (many.report(DATASET) / "index.html").read_text(encoding="utf-8")


def best_first(workspace: Workspace, metric: str) -> list[str]:
    """The methods of MANY by the mean over all cells, from the files."""

    def mean(method: str) -> float:
        cells = [Cell(DATASET, method, bits, seed) for bits in MANY.bits for seed in MANY.seeds]
        return np.mean([json.loads(workspace.scores(c).read_text())[metric] for c in cells]).item()

    return sorted(MANY.methods, key=mean, reverse=True)


def leading(workspace: Workspace, metric: str, count: int) -> list[str]:
    """isdh and the best others of MANY."""
    return ["isdh", *[m for m in best_first(workspace, metric) if m != "isdh"]][:count]


def drawn(page: str, key: str) -> dict[str, str]:
    """A plot on the page: method -> the style of its line."""
    plot = re.search(rf'<svg id="{key}".*?</svg>', page, re.DOTALL)
    assert plot
    named = r'<g class="named"><title>(\w+)</title><path [^>]*style="([^"]*)"'
    return dict(re.findall(named, plot[0]))


def of_values(**values: float) -> Any:
    """Evidence of one query: method -> its score."""
    return read_like({method: np.array([value]) for method, value in values.items()})


def test_as_many_methods_as_there_are_colours_keep_their_order_and_are_all_in_colour() -> None:
    methods = {f"m{i}": i / 10 for i in range(8)}
    evidence = of_values(**methods)
    assert emphasis.ranking(evidence, "map_at_all") == tuple(methods)
    assert emphasis.in_colour(evidence, "map_at_all") == tuple(methods)
    assert emphasis.looks(evidence) == {method: i for i, method in enumerate(methods)}


def test_a_page_of_few_methods_draws_none_in_grey_and_says_nothing_of_it(page: str) -> None:
    body = page[page.index("<body>") :]
    assert "var(--others)" not in body
    assert "grey" not in body
    assert "in the mean over code lengths" not in body
    for metric in vocabulary.principal(["map_at_20", "map_at_all", "wap_at_20", "ndcg_at_20"]):
        colours = [f"var(--series-{i})" for i in range(len(PARAMS.methods))]
        lines = drawn(page, metric)
        assert list(lines) == list(PARAMS.methods)
        for colour, style in zip(colours, lines.values(), strict=True):
            assert colour in style


def test_of_many_methods_the_best_and_isdh_are_in_colour_and_equal_ones_stand_by_name() -> None:
    evidence = of_values(z=0.5, b=0.9, isdh=0.1, c=0.8, a=0.5, d=0.7, e=0.2, f=0.3, y=0.5, g=0.15)
    order = ("b", "c", "d", "a", "y", "z", "f", "e", "g", "isdh")
    assert emphasis.ranking(evidence, "map_at_all") == order
    assert emphasis.in_colour(evidence, "map_at_all") == ("isdh", "b", "c", "d", "a")


def test_of_many_methods_without_isdh_the_best_are_in_colour() -> None:
    evidence = of_values(**{f"m{i}": i / 10 for i in range(9)})
    assert emphasis.in_colour(evidence, "map_at_all") == ("m8", "m7", "m6", "m5", "m4")


def test_no_two_looks_share_both_colour_and_marker() -> None:
    lines = [svg.line(look) for look in range(svg.LOOKS)]
    assert len({(line["color"], line["marker"]) for line in lines}) == svg.LOOKS
    assert svg.line(None)["color"] not in {line["color"] for line in lines}


def test_methods_in_one_drawing_differ_in_colour_where_the_page_has_more_than_colours() -> None:
    """Six metrics, each with its own four best of 24: with isdh 25 looks of 8 colours."""
    metrics_shown = ["map_at_10", "map_at_all", "wap_at_10", "acg_at_10", "ndcg_at_10"]
    metrics_shown.append("precision_within_r2")
    names = [f"m{i:02}" for i in range(24)]
    scores = {
        Cell(DATASET, name, 8, 0): {m: float(i // 4 == j) for j, m in enumerate(metrics_shown)}
        for i, name in enumerate(names)
    } | {Cell(DATASET, "isdh", 8, 0): dict.fromkeys(metrics_shown, 0.0)}
    evidence: Any = SimpleNamespace(
        methods=(*names, "isdh"),
        bits=(8,),
        scores=scores,
        runs=lambda method, bits: [Cell(DATASET, method, bits, 0)],
    )
    looks = emphasis.looks(evidence)
    assert len(set(looks.values())) == len(looks) == 25
    for j, metric in enumerate(metrics_shown):
        here = emphasis.looks_by(evidence, metric)
        assert list(here) == ["isdh", *names[4 * j : 4 * j + 4]]
        assert here == {method: looks[method] for method in here}
        assert len({svg.color(look) for look in here.values()}) == len(here)


def test_each_plot_of_many_methods_has_its_best_and_isdh_in_colour_and_names_the_grey(
    many: Workspace, crowded: str
) -> None:
    seen: dict[str, str] = {}
    bests = set()
    for metric in vocabulary.principal(read(many, MANY, DATASET).chance):
        lines = drawn(crowded, metric)
        assert set(lines) == set(MANY.methods)
        coloured = {method: style for method, style in lines.items() if "--others" not in style}
        assert set(coloured) == set(leading(many, metric, 5))
        assert len({re.findall(r"--series-\d", style)[0] for style in coloured.values()}) == 5
        for method, style in coloured.items():
            assert seen.setdefault(method, style) == style
        bests.add(frozenset(coloured))
    assert len(bests) > 1  # else "by that plot's metric" is not tried


def test_the_legend_has_every_method_in_colour_and_one_entry_for_the_grey(
    many: Workspace, crowded: str
) -> None:
    legend = crowded[crowded.index('<ul class="legend">') :].partition("</ul>")[0]
    entries = re.findall(r"</span> ([^<]*)</li>", legend)
    assert entries == [
        *emphasis.looks(read(many, MANY, DATASET)),
        "other methods",
        "random ranking",
    ]


def test_tables_of_many_methods_begin_with_the_best_by_their_own_metric(
    many: Workspace, crowded: str
) -> None:
    orders = set()
    for metric in vocabulary.principal(read(many, MANY, DATASET).chance):
        caption = f"{vocabulary.title(metric)} by method and code length"
        rows = crowded[crowded.index(caption) :].partition("</table>")[0]
        found = re.findall(r'href="#key-([\w-]+)"/></svg> (\w+)</th>', rows)
        assert [method for _, method in found] == best_first(many, metric)
        coloured = leading(many, metric, 5)
        assert [key for key, _ in found] == [m if m in coloured else "-grey" for _, m in found]
        orders.add(tuple(method for _, method in found))
    assert len(orders) > 1
    assert MANY.methods not in orders


def test_a_page_of_many_methods_says_how_many_are_grey_or_left_out(crowded: str) -> None:
    text = " ".join(crowded.split())
    assert "In colour in each plot are 5 of 10 methods: the highest by its measure" in text
    assert "isdh always among them. The other 5 are thin grey lines" in text
    assert "Shown are 5 of 10 methods: the highest by NDCG@20 in the mean over code" in text
    assert "of 10 methods the highest by NDCG@20 in the mean over code lengths, isdh always" in text


def test_radius_and_gallery_of_many_methods_show_isdh_and_the_best(
    many: Workspace, crowded: str
) -> None:
    chosen = leading(many, "ndcg_at_20", 5)
    evidence = read(many, MANY, DATASET)
    answers = gallery(many, evidence)[0].answers
    assert [answer.cell.name for answer in answers] == [f"{m}-20-0" for m in chosen[:2]]
    told = re.search(r'aria-label="Recall at 20 bits within radius [^:]*: ([^"]*)"', crowded)
    assert told
    assert [each.split()[0] for each in told[1].split("; ")] == chosen


def test_a_page_of_many_methods_is_well_formed_and_makes_no_request(crowded: str) -> None:
    test_the_page_is_well_formed_and_its_references_lead_somewhere(crowded)
    test_the_page_makes_no_request(crowded)
    test_pictures_and_drawings_are_described_and_header_cells_have_a_scope(crowded)
