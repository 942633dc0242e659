"""Stage `generate`: settings -> raw/digits, an ordinary folder of pictures with labels.csv."""

from __future__ import annotations

from prefect import flow

from flows import stage
from isdh import params, scenes


@flow(name="generate", flow_run_name="generate digits")
async def generate() -> None:
    """Compose the built-in dataset."""
    await write(params.load().generate)


@stage.task(name="write scenes")
async def write(settings: scenes.Scenes) -> None:
    """Pictures and labels.csv, deterministic from the seed."""
    scenes.write(stage.WORKSPACE.raw("digits"), settings)


if __name__ == "__main__":
    stage.main(generate)
