"""`isdh …` for people. Each command imports what it needs, so that the help comes at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from isdh.errors import InputError, unknown

if TYPE_CHECKING:
    from isdh.artifacts import Workspace
    from isdh.params import Params
    from isdh.tracking import Comparison, Decision, Entry

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
    metric: Annotated[
        str | None, typer.Option(help="A score, e.g. map_at_all; by default the champion's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also cells that params.yaml no longer names.")
    ] = False,
) -> None:
    """Compare methods at each code length.

    Mean and deviation over seeds, of today's cells as MLflow holds them; which methods are level
    with the best, and which better or worse than isdh, by a paired bootstrap over queries.
    """
    from isdh import tracking

    workspace, params = _here()
    if dataset is not None and dataset not in params.datasets:
        raise unknown("dataset", dataset, params.datasets)
    rule = params.champion
    metric = metric or rule.metric
    direction = rule.direction if metric == rule.metric else "max"
    found = [
        tracking.compare(
            workspace,
            name,
            metric,
            direction=direction,
            cells=None if everything else params.cells(name),
        )
        for name in ([dataset] if dataset else params.datasets)
    ]
    if as_json:
        typer.echo(json.dumps([comparison.as_dict() for comparison in found], indent=2))
        return
    for comparison in found:
        _show(comparison)


def _show(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{comparison.dataset}: {comparison.metric}",
        caption=(
            "bold: best of a code length; =: level with it; ▴ ▾: better, worse than "
            f"{comparison.reference} (paired bootstrap over queries, 95 %); ?: no values per query "
            "to tell by; *: champion; ±: deviation over seeds"
        ),
    )
    table.add_column("method")
    for bits in comparison.bits:
        table.add_column(f"{bits} bits", justify="right")
    for method, entries in comparison.methods.items():
        cells = [
            _cell(
                entries.get(bits), referred=bits in comparison.methods.get(comparison.reference, {})
            )
            for bits in comparison.bits
        ]
        table.add_row(method, *cells)
    Console().print(table)


def _cell(entry: Entry | None, *, referred: bool) -> str:
    """An entry with its marks; `referred`: the reference is there to be better or worse than."""
    if entry is None:
        return ""
    text = f"{entry.mean:.4f}"
    text += "" if entry.std is None else f" ±{entry.std:.4f}"
    untold = entry.level is None or (referred and entry.against is None)
    marks = "=" * bool(entry.level) + ("", "▴", "▾")[entry.against or 0]
    marks += "?" * untold + "*" * entry.champion
    text += f" {marks}" if marks else ""
    return f"[bold]{text}[/bold]" if entry.best else text


@app.command()
def publish() -> None:
    """Write trained and scored cells to MLflow.

    Only what it lacks is written; the command may be repeated at will.
    """
    from isdh import tracking

    workspace, params = _here()
    done = tracking.publish_all(workspace, params)
    typer.echo(
        f"{done.written} cells written, {done.unchanged} unchanged, {done.missing} not trained;"
        f" {tracking.address(workspace)}"
    )


@app.command()
def promote(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide only; write nothing.")] = False,
) -> None:
    """Register the best models as candidates.

    One per code length; the alias `champion` moves by the rule in params.yaml, and each move is
    written to promotions.jsonl.
    """
    from isdh import tracking

    decisions = tracking.promote(*_here(), dry_run=dry_run)
    if not decisions:
        raise InputError("no scored cell to promote; run `dvc repro`")
    for decision in decisions:
        _tell(decision)


@app.command()
def rollback(
    dataset: Annotated[str, typer.Argument(help="One of params.yaml.")],
    bits: Annotated[int, typer.Argument(help="The code length.")],
) -> None:
    """Withdraw a champion.

    The one before takes its place, and no promotion brings the withdrawn one back.
    """
    from isdh import tracking

    _tell(tracking.rollback(_here()[0], dataset, bits))


def _tell(decision: Decision) -> None:
    version = f"version {decision.version}" if decision.version else "a new version"
    if decision.moves:
        step = f"champion moves to {version} ({decision.cell})"
    else:
        step = f"champion stays version {decision.champion}" if decision.champion else "no champion"
    typer.echo(f"{decision.model}: {step}: {decision.reason}")


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
