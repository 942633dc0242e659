"""Strict, frozen sections of settings, and those that stages read. Pure pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from isdh.errors import InputError

Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Bits = Annotated[int, Field(ge=1, le=1024)]
Values = Annotated[tuple[int | float, ...], Field(min_length=1)]


class Section(BaseModel):
    """A mapping of params.yaml: unknown keys refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """What params.yaml may say of every dataset's raw files; a reader adds its own."""

    damaged: Share = 0.0  # of the files, how many may not decode: they are left out and named


class Images(Section):
    """Inputs that a convolutional network reads: uint8 (N, size, size, channels)."""

    kind: Literal["images"]
    size: int = Field(32, ge=8, le=1024)  # pixels a side
    channels: Literal[1, 3] = 3
    weights: str | None = None  # where the network's backbone starts, a state_dict in weights/


class Features(Section):
    """Inputs computed once by a frozen backbone: float16 (N, F)."""

    kind: Literal["features"]
    size: int = Field(224, ge=32, le=1024)  # pixels a side, as the backbone sees them
    backbone: str = "mobilenet_v2"  # a torchvision classification model
    weights: str  # a state_dict in the folder weights/; default: weights/<backbone>.pth
    mirrored: bool = True  # features of the mirrored training images too, for augmentation

    @model_validator(mode="before")
    @classmethod
    def _weights_of_the_backbone(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "weights" in values:
            return values
        backbone = values.get("backbone", cls.model_fields["backbone"].default)
        return {**values, "weights": f"weights/{backbone}.pth"}


Inputs = Annotated[Images | Features, Field(discriminator="kind")]
INPUT_DTYPES = {"images": "uint8", "features": "float16"}  # of inputs.npy and mirrored.npy


class Network(Section):
    """What stands between the inputs and the code."""

    backbone: str | None = None  # for images: "convnet", or a torchvision classification model
    hidden: int | None = Field(None, ge=1)  # width of a ReLU layer before the hash layer
    dropout: float = Field(0.0, ge=0.0, lt=1.0)  # on what the first linear layer reads
    hidden_dropout: float = Field(0.0, ge=0.0, lt=1.0)  # on what the hash layer reads behind it
    batch_norm: bool = False  # on the hash layer's outputs


class Training(Section):
    """How a network is trained; the same for every method of a dataset."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(128, ge=2)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: Rate = 1e-3  # of the hash layer
    backbone_rate: float = Field(1.0, ge=0.0)  # the backbone's, as a multiple of it
    weight_decay: float = Field(0.0, ge=0.0)
    schedule: Literal["cosine", "staircase", "constant"] = "cosine"
    halve_every: int = Field(500, ge=1)  # steps, for staircase
    warmup: float = Field(0.0, ge=0.0, lt=1.0)  # share of all steps with a rising rate
    shift: int = Field(0, ge=0)  # pixels, random translation of images
    flip: bool = False  # mirror a training row with probability 1/2
    mixup: float = Field(0.0, ge=0.0, le=1.0)  # share of rows that are mixed with another one
    mixup_beta: float = Field(0.2, gt=0.0)  # both parameters of the Beta distribution of shares
    threads: int = Field(1, ge=1)  # of the CPU; more change results in the last bits


class Choose(Section):
    """What is tried of every method, on a part of the training rows."""

    learning_rate: tuple[Rate, ...] = Field((3e-4, 1e-3, 3e-3), min_length=1)
    mixup: tuple[Share, ...] = Field((0.0,), min_length=1)
    hyper: dict[str, dict[str, Values]] = Field({})  # method -> hyper-parameter -> values
    bits: tuple[Bits, ...] = Field((12, 48), min_length=1)
    carve: int = Field(1000, ge=1)  # training rows that are held out
    seed: Seed = 0  # of the rows held out, and of the training

    @field_validator("learning_rate", "mixup", "bits")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("each may stand once; remove the repetition")
        return values


class Evaluate(Section):
    """What is scored."""

    # null: the whole database
    cutoffs: tuple[Annotated[int, Field(ge=1)] | None, ...] = Field(
        (100, 1000, 5000, None), min_length=1
    )


Model = TypeVar("Model", bound=Section)


def validate(model: type[Model], values: Any, *, where: str) -> Model:
    """Read a mapping as a section.

    Args:
        model: the section's class.
        values: what stood in the file.
        where: the place to name in messages, e.g. "params.yaml: dataset.digits.source".

    Raises:
        InputError: every broken rule, a line each: value, rule, and the nearest known key.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: want a mapping, found {values!r}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(detail, model) for detail in error.errors()]
        raise InputError(f"{where}: " + "\n  ".join(lines)) from None


def _explain(detail: ErrorDetails, model: type[Section]) -> str:
    place = [str(part) for part in detail["loc"]]
    rule = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = sorted(_fields(model, detail["loc"][:-1]))
        nearest = get_close_matches(place[-1], known, n=1)
        hint = f", did you mean {nearest[0]!r}?" if nearest else "."
        return f"unknown key {'.'.join(place)!r}{hint} known: {', '.join(known)}"
    if detail["type"] == "missing":
        return f"missing key {'.'.join(place)!r}; add it"
    if not place:
        return rule
    return f"{'.'.join(place)}={detail['input']!r}: {rule[0].lower()}{rule[1:]}"


def _fields(model: type[Section], place: tuple[int | str, ...]) -> set[str]:
    """Names of the keys that a section knows at a place below it."""
    sections = [model]
    for part in place:
        below = [
            section
            for here in sections
            if part in here.model_fields
            for section in _sections(here.model_fields[str(part)].annotation)
        ]
        # other parts are keys of a mapping, or the tag that chose one of several kinds
        tagged = [here for here in sections if part in _tags(here)]
        sections = below or tagged or sections
    return {name for section in sections for name in section.model_fields}


def _tags(section: type[Section]) -> tuple[Any, ...]:
    kind = section.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
