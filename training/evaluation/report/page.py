"""Pages as one HTML file: no script, nothing from outside, a style that the page's own policy
names."""

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from serving.base.text import printable
from training.evaluation.report.measured import TEXT_LENGTH
from training.evaluation.report.summary import (
    interval,
    kibibytes,
    milliseconds,
)
from training.evaluation.report.svg import level, strip, swatch


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("training.evaluation.report"),
        autoescape=True,  # by its ending, a template would be no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.filters |= {
        "kib": kibibytes,
        "ms": milliseconds,
        "interval": interval,
        "percent": _percent,
        "short": lambda content: printable(str(content), TEXT_LENGTH),
    }
    templates.globals |= {"level": level, "strip": strip, "swatch": swatch}
    return templates


def render(template: str, **values: Any) -> str:
    """A page of a template, which extends page.html.j2. Its policy allows the style that it has, by
    its hash, and pictures that it holds."""
    style = _templates().get_template("page.css.j2").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return _templates().get_template(template).render(style=style, policy=policy, **values)


def _percent(value: float | None) -> str:
    shown = "" if value is None else f"{100 * value:.2f}"
    return "0.00" if shown == "-0.00" else shown
