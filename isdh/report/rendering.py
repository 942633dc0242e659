"""Names and values -> one HTML page, by a template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isdh.report import vocabulary

_TEMPLATES = Path(__file__).parents[1] / "templates"


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template; a name that it has and the context has not is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": "{:.3f}".format,
        "percent": lambda share: f"{100 * share:.1f}\N{NARROW NO-BREAK SPACE}%",
        "count": lambda n: f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        "title_of": vocabulary.title,
        "phrase_of": vocabulary.phrase,
    }
    return environment.get_template(template).render(context)
