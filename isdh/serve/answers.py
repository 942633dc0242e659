"""What the service answers, by shape. Codes are hex in little bit order, as the model's own."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Model(BaseModel):
    """Which model answered."""

    name: str = Field(description="The registered model.")
    version: str
    alias: str = Field(description="champion or challenger.")
    cell: str = Field(description="<dataset>/<method>-<bits>-<seed>.")
    bits: int
    weights_sha256: str


class Encoded(BaseModel):
    """A picture's code."""

    model: Model
    code: str = Field(description="Hex, two characters a byte; bit i is bit i % 8 of byte i // 8.")
    bits: str = Field(description="The same as 0 and 1, in order.")


class Asked(BaseModel):
    """What was searched for."""

    id: str | None = Field(description="Of the collection; null for another picture or a code.")
    code: str
    labels: list[str]


class Neighbour(BaseModel):
    """A picture that was found."""

    id: str
    distance: int = Field(description="Bits in which the codes differ.")
    labels: list[str]
    shared: list[str] = Field(description="Those of its labels that the asked picture has.")
    code: str
    split: str


class Tie(BaseModel):
    """Pictures at one distance: between them the order means nothing."""

    distance: int
    shown: int
    all: int = Field(description="How many there are, shown or not.")


class Found(BaseModel):
    """The most similar pictures, nearest first, then in the collection's order."""

    model: Model
    asked: Asked
    neighbours: list[Neighbour]
    ties: list[Tie]
    k: int = Field(description="How many pictures the answer could have: as asked, or capped.")
    matching: int = Field(description="Pictures that the filters leave, at any rank.")
    notes: list[str] = Field(description="What differs from what was asked, and why.")


class Picture(BaseModel):
    """A picture of the collection."""

    id: str
    split: str
    labels: list[str]


class Pictures(BaseModel):
    """Some pictures of the collection, in its order."""

    model: Model
    pictures: list[Picture]
    offset: int
    total: int = Field(description="With this split and these labels.")


class Label(BaseModel):
    """A label and how many pictures that are searched have it."""

    name: str
    pictures: int


class Version(BaseModel):
    """What is served, and what is not."""

    isdh: str
    dataset: str
    models: list[Model]
    refused: dict[str, str] = Field(description="Alias -> why its version is not served.")
    registry: str = Field(description="Why the registry could not be asked; empty: it was.")
    pictures: int
    searched: int
    splits: dict[str, int]
    labels: list[Label]
    most_bytes: int
    most_neighbours: int


class Ready(BaseModel):
    """Whether searches are answered, and whether by what the registry says."""

    ready: bool
    version: str
    refused: dict[str, str] = Field(description="Alias -> the version that is not served.")
    registry: str = Field(description="answers, or does not answer.")


class Health(BaseModel):
    """The process lives."""

    status: str


class Refusal(BaseModel):
    """Why there is no answer."""

    error: str
