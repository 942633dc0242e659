"""`isdh …` for people. Each command imports what it needs, so that the help comes at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isdh.errors import InputError, unknown

if TYPE_CHECKING:
    from rich.table import Table

    from isdh.artifacts import Workspace
    from isdh.params import Params
    from isdh.search import Pair, Source
    from isdh.tracking import Decision

app = typer.Typer(
    name="isdh",
    help="Instance Similarity Deep Hashing: look at results and use models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(name="data", help="Look at raw pictures and labels.", no_args_is_help=True)
app.add_typer(data)


# options that several commands have
Dataset = Annotated[str | None, typer.Option(help="One of params.yaml; by default the first.")]
Bits = Annotated[int | None, typer.Option(help="The code length; by default the longest.")]
Version = Annotated[int | None, typer.Option(help="A registered version; by default the champion.")]
ModelFolder = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="A folder, e.g. models/digits/isdh-48-0, instead."),
]


def main() -> None:
    """Run a command. Bad input is told without a traceback; the exit code is 2."""
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _here() -> tuple[Workspace, Params]:
    from isdh import params
    from isdh.artifacts import Workspace

    return Workspace(), params.load()


@app.command()
def compare(
    dataset: Annotated[str | None, typer.Option(help="One of params.yaml; by default all.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A score, e.g. map_at_all; may be repeated. By default the champion's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row an entry.")] = False,
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write one HTML page as well.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also cells that params.yaml no longer names.")
    ] = False,
) -> None:
    """Compare methods at each code length.

    Mean and deviation over seeds, of today's cells as MLflow holds them; which methods are level
    with the best, and which better or worse than isdh, by a paired bootstrap over queries. Two
    single runs: isdh diff.
    """
    from isdh import tracking, views

    if as_json and as_csv:
        raise InputError("--json --csv: one of them at a time")
    workspace, params = _here()
    if dataset is not None and dataset not in params.datasets:
        raise unknown("dataset", dataset, params.datasets)
    rule = params.champion
    only = tracking.Selection(tuple(method or ()), tuple(bits or ()), tuple(seed or ()))
    metrics = {
        each: rule.direction if each == rule.metric else "max" for each in metric or [rule.metric]
    }
    cells = {
        name: None if everything else params.cells(name)
        for name in ([dataset] if dataset else params.datasets)
    }
    if html:
        from isdh import comparison_page

        shown = [
            each
            for name, some in cells.items()
            for each in tracking.illustrated(workspace, name, metrics, cells=some, only=only)
        ]
        found = [each.comparison for each in shown]
        _write(html, comparison_page.build(shown))
    else:
        found = [
            each
            for name, some in cells.items()
            for each in tracking.comparisons(workspace, name, metrics, cells=some, only=only)
        ]
    if as_json:
        typer.echo(json.dumps([comparison.as_dict() for comparison in found], indent=2))
    elif as_csv:
        typer.echo(views.comparison_csv(found), nl=False)
    else:
        _print(map(views.comparison_table, found))


@app.command()
def diff(
    run: Annotated[
        str, typer.Argument(help="The beginning of a run's id, or a cell, e.g. digits/isdh-48-0.")
    ],
    other: Annotated[
        str | None, typer.Argument(help="Likewise; without it, RUN and the one before it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show what changed between two runs.

    Parameters, data and code that differ, scores side by side, and whether they differ by more than
    chance. A cell stands for its current run; one alone is compared with its cell's run before.
    """
    from isdh import tracking, views
    from isdh.artifacts import Workspace

    found = tracking.diff(Workspace(), run, other)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _print(views.difference_tables(found))


def _print(tables: Iterable[Table]) -> None:
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    typer.echo(f"{path}: written", err=True)


@app.command()
def publish() -> None:
    """Write trained and scored cells to MLflow, and mend what was lost there.

    Only what it lacks is written; the command may be repeated at will.
    """
    from isdh import tracking

    workspace, params = _here()
    done = tracking.publish_all(workspace, params)
    typer.echo(
        f"{done.written} cells written, {done.unchanged} unchanged, {done.missing} not trained;"
        f" {tracking.shown(tracking.address(workspace))}"
    )
    tracking.mend(workspace, params, tell=typer.echo)


@app.command()
def promote(
    version: Annotated[
        int | None, typer.Option(help="Make this one the champion by hand, not by the rule.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Of --version.")] = None,
    bits: Annotated[int | None, typer.Option(help="Of --version.")] = None,
    reason: Annotated[str | None, typer.Option(help="Of --version; it is logged.")] = None,
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Take --version though it was withdrawn.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide only; write nothing.")] = False,
) -> None:
    """Register the best models; move the champions.

    One candidate per code length, which is `challenger` until the rule in params.yaml makes it
    `champion`. Or, with --version, one move by hand. Each is written to promotions.jsonl.
    """
    from isdh import tracking

    given = (dataset, bits, reason)
    if version is None:
        if withdrawn or any(value is not None for value in given):
            raise InputError("--dataset, --bits, --reason, --withdrawn: go with --version; add it")
        if not tracking.promote(*_here(), dry_run=dry_run, tell=_tell):
            raise InputError("no scored cell to promote; run `dvc repro`")
        return
    if dataset is None or bits is None or reason is None:
        raise InputError(
            f"--version={version}: of which model, and why? add what is missing of "
            "--dataset, --bits and --reason"
        )
    _tell(
        tracking.promote_version(
            *_here(), dataset, bits, version, reason=reason, withdrawn=withdrawn, dry_run=dry_run
        )
    )


@app.command()
def rollback(
    dataset: Annotated[str, typer.Argument(help="One of params.yaml.")],
    bits: Annotated[int, typer.Argument(help="The code length.")],
    reason: Annotated[str, typer.Option(help="Why; it is logged.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide only; write nothing.")] = False,
) -> None:
    """Withdraw a champion.

    The one before takes its place, and the rule never brings the withdrawn one back.
    """
    from isdh import tracking

    _tell(tracking.rollback(*_here(), dataset, bits, reason=reason, dry_run=dry_run))


@app.command()
def copy(
    dataset: Annotated[str, typer.Argument(help="One of params.yaml.")],
    bits: Annotated[int, typer.Argument(help="The code length.")],
    to: Annotated[
        str, typer.Option(metavar="URI", help="The other MLflow: a server's address, or sqlite:///")
    ],
    reason: Annotated[str, typer.Option(help="Why; it is logged.")],
    version: Annotated[
        int | None, typer.Option(help="Copy this one instead of the champion.")
    ] = None,
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Take it though it was withdrawn, here or there.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide only; write nothing.")] = False,
) -> None:
    """Make a champion that of another MLflow.

    Run, scores and files go along; they are read back and compared before the alias moves there.
    The command may be repeated at will.
    """
    from isdh import tracking

    workspace, params = _here()
    decision = tracking.copy_champion(
        workspace,
        params,
        dataset,
        bits,
        to=to,
        reason=reason,
        version=version,
        withdrawn=withdrawn,
        dry_run=dry_run,
    )
    typer.echo(f"{tracking.shown(to)}: ", nl=False)
    _tell(decision)


def _tell(decision: Decision) -> None:
    version = f"version {decision.version}" if decision.version else "a new version"
    if decision.moves:
        step = f"champion moves to {version} ({decision.cell})"
    else:
        step = f"champion stays version {decision.champion}" if decision.champion else "no champion"
        if decision.cell and decision.version != decision.champion:
            step += f", challenger is {version} ({decision.cell})"
    typer.echo(f"{decision.model}: {step}: {decision.reason}")


@app.command()
def search(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", exists=True, dir_okay=False)
    ],
    dataset: Dataset = None,
    bits: Bits = None,
    version: Version = None,
    model: ModelFolder = None,
    k: Annotated[
        int | None, typer.Option("-k", help="How many; by default 10, or all within --radius.")
    ] = None,
    radius: Annotated[
        int | None, typer.Option(help="Only at a Hamming distance of at most so much.")
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Order the top by the network's outputs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write one HTML page as well.")
    ] = None,
) -> None:
    """Find the pictures most similar to some.

    The champion encodes them, and the codes that it made of the dataset's database are searched.
    """
    from isdh import answer_views, answers
    from isdh import search as searching

    workspace, params = _here()
    files = [(str(path), _bytes_of(path)) for path in pictures]
    source = searching.choose(workspace, params, dataset, bits, version=version, folder=model)
    pair = _loaded(workspace, params, source)
    if k is not None and radius is None and k > (most := len(pair.collection)):
        typer.echo(f"-k {k}: the collection has {most} pictures; all are shown", err=True)
    asked = answers.ask(pair, files, k=k, radius=radius, rerank=rerank)
    if html:
        _write(html, answer_views.page(pair, asked, [data for _, data in files], reranked=rerank))
    if as_json:
        typer.echo(json.dumps(answers.as_dict(pair, asked), indent=2))
    else:
        _print(answer_views.tables(pair, asked))


def _loaded(workspace: Workspace, params: Params, source: Source) -> Pair:
    """A model and the collection that it answers from."""
    from isdh import search as searching

    with _bar("codes") as progress:
        return searching.load(workspace, params, source, on_progress=progress)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


@app.command()
def export(
    engine: Annotated[str, typer.Argument(help="faiss, milvus, vespa, qdrant or postgres.")],
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where to; created.")],
    dataset: Dataset = None,
    bits: Bits = None,
    version: Version = None,
    model: ModelFolder = None,
) -> None:
    """Write codes, ids, labels and paths for another search engine.

    export.json says which model made the codes and in which order their bits stand.
    """
    from isdh import search as searching
    from isdh.export import export as write

    workspace, params = _here()
    source = searching.choose(workspace, params, dataset, bits, version=version, folder=model)
    for path in write(_loaded(workspace, params, source), engine, folder):
        typer.echo(path)


@app.command()
def serve(
    dataset: Dataset = None,
    bits: Bits = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that the service has besides; may be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Of a page elsewhere that may ask; may be repeated.")
    ] = None,
    without_token: Annotated[
        bool, typer.Option("--without-token", help="Let everybody who reaches --host search.")
    ] = False,
    megabytes: Annotated[float, typer.Option(help="The most that a picture's file may have.")] = 20,
    waiting: Annotated[
        int, typer.Option(help="Pictures that may wait or be in work; others get a 503.")
    ] = 128,
    threads: Annotated[int, typer.Option(help="Cores for the network.")] = 1,
    every: Annotated[float, typer.Option(help="Seconds between looks at the registry.")] = 5,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until there is a champion that can be served.")
    ] = False,
) -> None:
    """Search by picture over HTTP and on a page.

    The champion answers from the codes that it made; when it moves, another takes its place without
    a break. Who is not on this machine needs the token in ISDH_TOKEN.
    """
    import os

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before torch and FAISS are imported
    from isdh.serve.options import Options, token_for

    options = Options(
        host=host,
        port=port,
        names=tuple(allow_host or ()),
        origins=tuple(allow_origin or ()),
        token=token_for(host, without=without_token),
        megabytes=megabytes,
        waiting=waiting,
        threads=threads,
        every=every,
    )
    from isdh.serve.run import run

    workspace, params = _here()
    served = _collection(params, dataset, bits)
    run(workspace, params, *served, options, wait=wait, tell=typer.echo)


@app.command()
def encode(
    folder: Annotated[Path, typer.Argument(help="Of pictures, also those of folders in it.")],
    dataset: Dataset = None,
    bits: Bits = None,
) -> None:
    """Add pictures to the collection that is served.

    They are copied and encoded by the champion, without training. A service that runs shows them
    within seconds. The command may be repeated: pictures that are there are passed over.
    """
    from isdh import search as searching

    workspace, params = _here()
    source = searching.choose(workspace, params, dataset, bits)
    pair = _loaded(workspace, params, source)
    with _bar(str(folder)) as progress:
        new, there = searching.add_folder(workspace, pair, folder, progress)
    typer.echo(
        f"{len(new)} pictures added to {source.cell.dataset}, encoded by {source}; "
        f"{there} were there"
    )


def _collection(params: Params, dataset: str | None, bits: int | None) -> tuple[str, int]:
    """Which dataset and code length are meant."""
    if dataset is not None and dataset not in params.datasets:
        raise unknown("dataset", dataset, params.datasets)
    return dataset or next(iter(params.datasets)), bits or max(params.bits)


@app.command()
def doctor() -> None:
    """Check settings, data, versions, servers.

    A line each; the exit code is 1 if one is amiss.
    """
    from rich.console import Console
    from rich.table import Table

    from isdh.artifacts import Workspace
    from isdh.doctor import examine

    findings = list(examine(Workspace()))
    table = Table(box=None, show_header=False)
    for finding in findings:
        colour = {"ok": "green", "note": "yellow", "amiss": "red"}[finding.state]
        table.add_row(f"[{colour}]{finding.state}[/]", finding.subject, finding.text)
    Console().print(table)
    if any(finding.state == "amiss" for finding in findings):
        raise typer.Exit(1)


@data.command()
def check(
    dataset: Annotated[
        str | None, typer.Argument(help="One of params.yaml; by default all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Look at raw data before any stage runs.

    Rows and labels by split, files that are missing or do not decode, pictures that stand in two
    splits, shares of pairs, and what a random ranking would score. Everything is looked at in one
    run; the exit code is 2 if a stage would refuse the data.
    """
    from isdh import console
    from isdh.inspection import inspect

    _, params = _here()
    if dataset is not None and dataset not in params.datasets:
        raise unknown("dataset", dataset, params.datasets)
    found = []
    for name in [dataset] if dataset else params.datasets:
        with _bar(name) as progress:
            found.append(inspect(params, name, on_progress=progress))
        if not as_json:
            console.show(found[-1])
    if as_json:
        typer.echo(json.dumps([inspection.as_dict() for inspection in found], indent=2))
    if not all(inspection.passes for inspection in found):
        raise typer.Exit(2)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal: what it yields is called with files done and in all."""
    from tqdm import tqdm

    with tqdm(desc=name, unit=" images", leave=False, dynamic_ncols=True, disable=None) as bar:

        def reach(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield reach


if __name__ == "__main__":
    main()
