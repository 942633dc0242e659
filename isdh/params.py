"""params.yaml -> frozen, validated slices. The only reader of the file's string keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from isdh import datasets, methods
from isdh.artifacts import Cell
from isdh.errors import InputError, unknown
from isdh.scenes import Scenes
from isdh.settings import Bits, Choose, Evaluate, Inputs, Network, Section, Seed, Training, validate

CHOICES = "for"  # the key below a method that holds dataset -> Chosen

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class DatasetParams(Section):
    """One dataset: each stage reads its own key only."""

    source: dict[str, Any]  # {reader: a file of isdh/datasets, and that reader's options}
    inputs: Inputs
    network: Network
    training: Training
    choose: Choose = Choose()

    @model_validator(mode="after")
    def _backbone_suits_inputs(self) -> DatasetParams:
        backbone = self.network.backbone
        if (self.inputs.kind == "images") != (backbone is not None):
            need = "images need" if self.inputs.kind == "images" else "features take no"
            raise InputError(f"network.backbone={backbone!r}: {need} backbone")
        return self


class Chosen(Section):
    """What a dataset has chosen for one method, on a part of its training rows."""

    learning_rate: float | None = Field(
        None, gt=0.0, allow_inf_nan=False
    )  # in place of the dataset's
    mixup: float | None = Field(None, ge=0.0, le=1.0)
    hyper: dict[str, Any] = Field({})  # hyper-parameters, in place of the method's


class Champion(Section):
    """When a registered model takes the alias `champion` from the one that holds it."""

    metric: str = "ndcg_at_100"
    direction: Literal["max", "min"] = "max"
    margin: float = Field(0.0, ge=0.0)  # by how much the mean over seeds must be better
    min_seeds: int = Field(1, ge=1)
    # of the paired bootstrap over queries that it has to be better by too; null: no test
    confidence: float | None = Field(0.95, ge=0.5, lt=1.0)


class Params(Section):
    """The whole of params.yaml."""

    datasets: dict[Name, str] = Field(min_length=1)  # name -> raw root
    methods: tuple[Name, ...] = Field(min_length=1)
    bits: tuple[Bits, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    generate: Scenes
    dataset: dict[Name, DatasetParams]
    method: dict[Name, dict[str, Any]]  # name -> hyper-parameters, and CHOICES
    evaluate: Evaluate
    champion: Champion = Champion()

    @model_validator(mode="after")
    def _names_are_known(self) -> Params:
        for key in ("methods", "bits", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise InputError(
                    f"{key}={list(values)}: each may stand once; remove the repetition"
                )
        for name in self.datasets:
            if name not in self.dataset:
                raise InputError(f"{unknown('dataset', name, self.dataset)}; or add dataset.{name}")
        for name in (*self.methods, *self.method):
            if name not in methods.METHODS:
                raise unknown("method", name, methods.METHODS)
        for key, section in self.dataset.items():
            for name in section.choose.hyper:
                if name not in methods.METHODS:
                    raise unknown(f"method in dataset.{key}.choose.hyper", name, methods.METHODS)
        for name in self.methods:
            if name not in self.method:
                raise InputError(f"method.{name}: no such section; add `{name}: {{}}` to `method`")
        for name, dataset in self.dataset.items():
            datasets.options(dataset.source, where=f"dataset.{name}.source")
        return self

    @model_validator(mode="after")
    def _choices_are_of_datasets(self) -> Params:
        for method, section in self.method.items():
            choices = section.get(CHOICES, {})
            if not isinstance(choices, dict):
                raise InputError(f"method.{method}.{CHOICES}={choices!r}: want dataset -> choices")
            for dataset, choice in choices.items():
                if dataset not in self.dataset:
                    raise unknown(f"dataset in method.{method}.{CHOICES}", dataset, self.dataset)
                validate(Chosen, choice, where=f"method.{method}.{CHOICES}.{dataset}")
        return self

    @model_validator(mode="after")
    def _champions_metric_is_scored(self) -> Params:
        metric, _, cutoff = self.champion.metric.partition("_at_")
        known = ["all" if k is None else str(k) for k in self.evaluate.cutoffs]
        if cutoff not in known and not metric.endswith("_within_r2"):
            raise InputError(
                f"champion.metric={self.champion.metric!r}: not scored; "
                f"evaluate.cutoffs gives _at_{', _at_'.join(known)}"
            )
        return self

    def section(self, dataset: str) -> DatasetParams:
        """What params.yaml says of one dataset.

        Raises:
            InputError: an unknown name.
        """
        if dataset not in self.dataset:
            raise unknown("dataset", dataset, self.dataset)
        return self.dataset[dataset]

    def root(self, dataset: str) -> Path:
        """The folder of one dataset's pictures as they came.

        Raises:
            InputError: the name is not among `datasets`.
        """
        if dataset not in self.datasets:
            raise unknown("dataset", dataset, self.datasets)
        return Path(self.datasets[dataset])

    def hyper(self, dataset: str, method: str) -> dict[str, Any]:
        """The hyper-parameters of a method on a dataset, where they are not the published defaults.

        Raises:
            InputError: an unknown name.
        """
        if method not in self.method:
            raise unknown("method", method, self.method)
        own = {key: value for key, value in self.method[method].items() if key != CHOICES}
        return {**own, **self._chosen(dataset, method).hyper}

    def training(self, dataset: str, method: str) -> Training:
        """How a method is trained on a dataset.

        Raises:
            InputError: an unknown name.
        """
        chosen = self._chosen(dataset, method).model_dump(exclude={"hyper"}, exclude_none=True)
        return self.section(dataset).training.model_copy(update=chosen)

    def _chosen(self, dataset: str, method: str) -> Chosen:
        choices = self.method.get(method, {}).get(CHOICES, {})
        return Chosen.model_validate(choices.get(dataset, {}))

    def cells(self, dataset: str) -> list[Cell]:
        """Today's matrix of one dataset, in the order of params.yaml."""
        return [
            Cell(dataset, method, bits, seed)
            for method in self.methods
            for bits in self.bits
            for seed in self.seeds
        ]


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate params.yaml.

    Raises:
        InputError: the file is missing, is not YAML, or a value breaks a rule; all are named.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the project's root") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {error}") from None
    return validate(Params, content, where=str(path))
