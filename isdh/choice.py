"""Hyper-parameters of training, chosen on rows carved out of the training set.

The protocol is docs/method.md, section 5.3. Queries and database are never looked at: part of the
training rows is held out, and searched among themselves. Searched among the rows that were trained
on, whose labels a network knows by heart, what is learned by heart would win.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isdh import methods, metrics, networks
from isdh.artifacts import replacing
from isdh.encoding import encode
from isdh.errors import InputError
from isdh.settings import Choose, Network, Training
from isdh.training import TrainingRows, fit

PARTS = 5  # of the rows held out: each is searched for among the others
JUDGES = ("map_at_all", "wap_at_all", "acg_at_10", "ndcg_at_10")


@dataclass(frozen=True)
class Trial:
    """One configuration of one method at one code length."""

    method: str
    bits: int
    learning_rate: float
    mixup: float
    hyper: tuple[tuple[str, float], ...] = ()

    @property
    def configuration(self) -> tuple[float, float, tuple[tuple[str, float], ...]]:
        """What is chosen: the same at every code length."""
        return self.learning_rate, self.mixup, self.hyper


@dataclass(frozen=True)
class Outcome:
    """A trial and its scores on the rows held out.

    Attributes:
        trial: what was tried.
        under: digest of everything else that the scores depend on.
        map_at_all, wap_at_all, acg_at_10, ndcg_at_10: exact under ties.
        seconds: wall time of the training, with other trials beside it.
    """

    trial: Trial
    under: str
    map_at_all: float
    wap_at_all: float
    acg_at_10: float
    ndcg_at_10: float
    seconds: float


def grid(choose: Choose, names: Iterable[str]) -> list[Trial]:
    """Every configuration of every method: the same rates and mixup for all that are descended.

    A fitted method has neither; it is tried where `choose.hyper` names it.
    """
    trials = []
    for name in names:
        lists = choose.hyper.get(name, {})
        fitted = methods.METHODS[name].head is not None
        rates, mixup = ((0.0,), (0.0,)) if fitted else (choose.learning_rate, choose.mixup)
        for values in product(*lists.values()):
            hyper = tuple(zip(lists, values, strict=True))
            if hyper or not fitted:
                trials += [Trial(name, *rest, hyper) for rest in product(choose.bits, rates, mixup)]
    return trials


def carve(count: int, choose: Choose) -> tuple[np.ndarray, np.ndarray]:
    """Positions among `count` training rows: those held out, those kept; each ascending.

    Raises:
        InputError: none would be kept, or too few held out to be searched among themselves.
    """
    if choose.carve < 2 * PARTS:
        raise InputError(f"choose.carve={choose.carve}: holds out fewer than {2 * PARTS}; raise it")
    if choose.carve >= count:
        raise InputError(
            f"choose.carve={choose.carve}: leaves none of {count} training rows; lower it"
        )
    order = np.random.default_rng(choose.seed).permutation(count)
    return np.sort(order[: choose.carve]), np.sort(order[choose.carve :])


def attempt(
    trial: Trial,
    data: TrainingRows,
    choose: Choose,
    network: Network,
    training: Training,
    *,
    hyper: dict[str, Any],
    under: str,
    weights: Path | None = None,
) -> Outcome:
    """Train on the rows kept and search among the rows held out.

    Args:
        trial: what to try.
        data: the dataset's training rows, all of them.
        choose: how many are held out, and the seed.
        network: the same for all methods.
        training: the same for all methods but for what is tried.
        hyper: the method's hyper-parameters.
        under: goes into the outcome.
        weights: where a torchvision backbone starts.

    Raises:
        InputError: the loss is not finite.
    """
    torch.set_num_threads(1)
    held, kept = carve(len(data.rows), choose)
    mirrored = data.mirrored[kept] if len(data.mirrored) else data.mirrored
    learned = replace(data, rows=data.rows[kept], mirrored=mirrored)
    tried = training.model_copy(update={"learning_rate": trial.learning_rate, "mixup": trial.mixup})
    torch.manual_seed(choose.seed)
    trained = networks.build(
        input_shape=data.inputs.shape[1:],
        bits=trial.bits,
        weights=weights,
        **network.model_dump(),
    )
    classes = data.labels.shape[1]
    hyper = {**hyper, **dict(trial.hyper)}
    method = methods.build(trial.method, bits=trial.bits, num_classes=classes, **hyper)
    cpu = torch.device("cpu")
    records = list(fit(trained, method, learned, tried, seed=choose.seed, device=cpu))
    scores = among_themselves(
        encode(trained, data.inputs[data.rows[held]], device=cpu),
        data.labels[data.rows[held]],
        bits=trial.bits,
    )
    seconds = round(sum(record["seconds"] for record in records), 2)
    return Outcome(
        trial, under, **{name: round(score, 5) for name, score in scores.items()}, seconds=seconds
    )


def among_themselves(codes: np.ndarray, labels: np.ndarray, *, bits: int) -> dict[str, float]:
    """JUDGES of rows none of which was trained on: each is a query once, the other parts searched.

    Args:
        codes: uint8 (N, ceil(bits / 8)), N of at least PARTS.
        labels: bool (N, L).
        bits: of a code.
    """
    position = np.arange(len(codes))
    scores = []
    for part in np.array_split(position, PARTS):
        rest = np.setdiff1d(position, part)
        scores.append(
            metrics.evaluate(
                codes[part], labels[part], codes[rest], labels[rest], bits=bits, cutoffs=(10, None)
            ).per_query
        )
    return {name: float(np.mean(np.concatenate([of[name] for of in scores]))) for name in JUDGES}


def best(outcomes: Iterable[Outcome], lengths: Collection[int]) -> dict[str, Trial]:
    """Of each method the configuration with the highest scores.

    Configurations are compared by the geometric mean of the four scores over all code lengths, in
    which no metric counts more for being a larger number. One that lacks an outcome at a length,
    because it diverged there, is left out.

    Returns:
        Method -> the trial at the shortest length.
    """
    runs: dict[str, dict[Any, dict[int, Outcome]]] = {}
    for outcome in outcomes:
        trial = outcome.trial
        of_method = runs.setdefault(trial.method, {})
        of_method.setdefault(trial.configuration, {})[trial.bits] = outcome
    answer = {}
    for method, configurations in runs.items():
        whole = [found for found in configurations.values() if set(found) == set(lengths)]
        if whole:
            chosen = max(whole, key=lambda found: sum(map(_mark, found.values())))
            answer[method] = chosen[min(lengths)].trial
    return answer


def _mark(outcome: Outcome) -> float:
    return sum(math.log(max(getattr(outcome, name), 1e-9)) for name in JUDGES)


_TRIAL = [field.name for field in fields(Trial)]
_COLUMNS = [*_TRIAL, *[field.name for field in fields(Outcome)][1:]]


def read_log(path: Path) -> list[Outcome]:
    """The outcomes of a log; none where there is no file.

    Raises:
        InputError: a line that is none of a log.
    """
    if not path.exists():
        return []
    outcomes = []
    with path.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                outcomes.append(_outcome(row))
            except (AttributeError, KeyError, TypeError, ValueError):
                raise InputError(
                    f"{path}:{number}: no line of a log of choices; restore the file or delete it"
                ) from None
    return outcomes


def _outcome(row: dict[str, str]) -> Outcome:
    trial = Trial(
        row["method"],
        int(row["bits"]),
        float(row["learning_rate"]),
        float(row["mixup"]),
        tuple(
            (name, json.loads(value))
            for name, _, value in (part.partition("=") for part in row["hyper"].split())
        ),
    )
    scores = {name: float(row[name]) for name in (*JUDGES, "seconds")}
    return Outcome(trial, row["under"], **scores)


def write_log(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write a log: a line an outcome, in the order of method, code length and what was tried."""
    lines = []
    for outcome in sorted(outcomes, key=lambda outcome: astuple(outcome.trial)):
        values = {**asdict(outcome.trial), **asdict(outcome)}
        values["hyper"] = " ".join(f"{name}={value}" for name, value in outcome.trial.hyper)
        lines.append(",".join(str(values[column]) for column in _COLUMNS))
    with replacing(path) as stream:
        stream.write("\n".join([",".join(_COLUMNS), *lines, ""]).encode())
