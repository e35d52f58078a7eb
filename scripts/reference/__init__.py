"""The pages of docs/reference, made from the code whenever the site is built.

Each module makes one page. It raises Undocumented for a name that the code does not explain, so
that no option, key, setting, metric or error comes without its meaning.
"""

from collections.abc import Callable

from scripts.reference import (
    client,
    commands,
    errors,
    metrics,
    model_config,
    recipe,
    services,
    settings,
)
from scripts.reference.text import Undocumented

PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": commands.page,
    "reference/recipe.md": recipe.page,
    "reference/settings.md": settings.page,
    "reference/config-pbtxt.md": model_config.page,
    "reference/metrics.md": metrics.page,
    "reference/errors.md": errors.page,
    "reference/protos.md": services.page,
    "reference/client.md": client.page,
}
"""By path below docs/, the function that returns the page in Markdown."""

__all__ = ["PAGES", "Undocumented"]
