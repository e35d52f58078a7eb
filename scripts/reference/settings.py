"""The settings of a server: flag, variable, key of the file, default, limits, meaning."""

from pydantic.fields import FieldInfo

from scripts.reference.text import Undocumented, code, join, parts, sentence
from scripts.reference.types import default_of, limits_of, type_of
from serving.server.config import ServerConfig
from serving.server.config_sources import ENVIRONMENT_PREFIX

_INTRODUCTION = """\
# Server settings

Every setting of `convserve serve` is a flag, a variable of the environment and a key of the YAML
file that `--config` names. A flag goes before the variable, and the variable before the file. An
unknown key is refused with the nearest valid one, a wrong value with the values that are
expected.

```yaml
# server.yaml: convserve serve --config server.yaml
model_repository: model_repo
model_control: poll
max_connections: 4096
```
"""
# The title of ServerConfig's own fields; those of its bases begin their docstrings.
_OWN = "Callers, time and memory"


def page() -> str:
    """The page."""
    return join([_INTRODUCTION, *_groups()])


def setting(name: str, field: FieldInfo) -> str:
    """The section of one setting. Raises Undocumented where it has no description."""
    if not field.description:
        raise Undocumented(f"setting {name}: give its Field a description")
    kind = type_of(field.annotation)
    limits = limits_of(field.metadata)
    facts = [
        code(ENVIRONMENT_PREFIX + name.upper()),
        f"`{name}:` in the file",
        f"{kind} {limits}".rstrip(),
        _default(field),
    ]
    flag = "--" + name.replace("_", "-")
    return f"### `{flag}` {{ #{name.replace('_', '-')} }}\n\n{sentence(field.description)}\n\n" + (
        " · ".join(facts) + "\n{ .facts }"
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "not set" if field.default is None else f"default {default_of(field)}"


def _groups() -> list[str]:
    """Sections by the class that declares a setting, the first fields first."""
    blocks = []
    for owner in reversed([c for c in ServerConfig.__mro__ if hasattr(c, "model_fields")]):
        own = [name for name in ServerConfig.model_fields if name in owner.__annotations__]
        if not own:
            continue
        title = _OWN if owner is ServerConfig else parts(owner.__doc__)[0].rstrip(".")
        blocks.append(f"## {title}")
        blocks += [setting(name, ServerConfig.model_fields[name]) for name in own]
    return blocks
