"""The policy: which callers may do what with which models, and how much of it."""

import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serving.base.errors import quoted
from serving.base.problems import problems_by_path, shown
from serving.base.text import one_line
from serving.base.yaml_text import BAD_YAML, load_yaml
from serving.server.access.followed import BadFile

# infer: calls that infer. metadata: a model's description and the server's, reflection. statistics:
# its counters. load: loads and unloads it. settings: traces and the log. memory: shared memory.
# metrics: its lines of /metrics. debug: its last batches.
Action = Literal[
    "infer", "metadata", "statistics", "load", "settings", "memory", "metrics", "debug"
]
ACTIONS: tuple[Action, ...] = get_args(Action)

# Characters of a problem, and of all problems that an error lists.
_PROBLEM, _LISTED = 500, 1500
# Characters of a glob: its expression must be small.
_GLOB = 300
# Models whose actions are remembered for the members of the same groups, and characters of such a
# name. Names of models that are not there count too: callers choose them, and longer ones would be
# kept for ever.
_REMEMBERED = 256
_REMEMBERED_NAME = 255
# How a member begins; the rest is a glob.
_KINDS = ("cert:", "jwt:", "role:", "key:")
# Members without a rest: those who show nothing, and all.
_WORDS = ("anonymous", "*")


def _member(text: str) -> str:
    if text not in _WORDS and not text.startswith(_KINDS):
        raise ValueError(
            f"expected {', '.join(f'{kind}NAME' for kind in _KINDS)}, {' or '.join(_WORDS)}, "
            f"got {quoted(text)}"
        )
    return text


def _number(value: object) -> object:
    """YAML has 1e6 for a text, which pydantic takes for a number, as it does yes and no."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value}")
    return value


Glob = Annotated[str, Field(min_length=1, max_length=_GLOB)]
Member = Annotated[Glob, AfterValidator(_member)]
# Units a second; a lower rate would be none in weeks.
PerSecond = Annotated[float, Field(ge=1e-6, le=1e12), BeforeValidator(_number)]
Whole = Annotated[int, Field(gt=0, le=1 << 53), BeforeValidator(_number)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Right(_Section):
    """Actions on models whose names match one of the globs."""

    models: Sequence[Glob] = Field(min_length=1)
    actions: Sequence[Action] = Field(min_length=1)


class Limits(_Section):
    """How much each caller of a group may have; None is not limited.

    requests_per_second, images_per_second, pixels_per_second: on average; a second's worth may come
        at once. An image is a row of a batch; its pixels are those that were sent.
    calls, streams: at a time.
    bytes_held: of messages, rows and answers, at a time.
    requests_per_day, images_per_day: of a day in UTC.
    """

    requests_per_second: PerSecond | None = None
    images_per_second: PerSecond | None = None
    pixels_per_second: PerSecond | None = None
    calls: Whole | None = None
    streams: Whole | None = None
    bytes_held: Whole | None = None
    requests_per_day: Whole | None = None
    images_per_day: Whole | None = None


class Group(_Section):
    """Callers who have the same rights.

    members: globs over the names of callers, such as key:clinic-* or cert:URI:spiffe://prod/*.
    limits: of each member. Those of the first group with limits count for a member of several.
    """

    members: Sequence[Member] = Field(min_length=1)
    rights: Sequence[Right] = ()
    limits: Limits | None = None

    @functools.cached_property
    def takes(self) -> re.Pattern[str]:
        """Matches the names of its members."""
        return re.compile("|".join(map(fnmatch.translate, self.members)))


class Policy(_Section):
    """Every group by its name. What no group permits is refused."""

    groups: Mapping[str, Group] = Field(min_length=1)


def parse_policy(text: str) -> Policy:
    """The policy of a YAML file. Raises BadFile naming the path, the value and what was
    expected."""
    try:
        document = load_yaml(text)
    except BAD_YAML as error:
        raise BadFile(f"not valid YAML: {one_line(str(error), _PROBLEM)}") from error
    if not isinstance(document, dict):
        raise BadFile(f"expected keys and values, got {shown(document)}")
    try:
        policy = Policy.model_validate(document)
    except ValidationError as error:
        raise BadFile(_listed(list(problems_by_path(document, error, Policy).values()))) from error
    for group in policy.groups.values():
        group.takes  # noqa: B018 - made here, on the thread that reads the file
    return policy


def _listed(problems: Sequence[str]) -> str:
    listed = one_line(problems[0], _PROBLEM)
    for number, problem in enumerate(problems[1:], start=1):
        if len(listed) + len(problem) > _LISTED:
            return f"{listed}; and {len(problems) - number} more"
        listed += f"; {problem}"
    return listed


class Grant(NamedTuple):
    """A right as it is looked up.

    group, models: for who asks why.
    """

    group: str
    models: Sequence[str]
    matches: re.Pattern[str]
    actions: frozenset[Action]


class Rights:
    """What the members of some groups may do.

    everywhere: actions that are his on some model at least; those that concern none are his then.
    limits: what he may have of it.
    """

    def __init__(self, grants: Sequence[Grant], limits: Limits | None = None) -> None:
        self.grants = grants
        self.limits = limits
        self.everywhere = frozenset(action for grant in grants for action in grant.actions)
        self._on: dict[str, frozenset[Action]] = {}

    def on(self, model: str) -> frozenset[Action]:
        """The actions that are his on a model, whether it is there or not."""
        found = self._on.get(model)
        if found is None:
            found = frozenset(
                action
                for grant in self.grants
                if grant.matches.fullmatch(model)
                for action in grant.actions
            )
            if len(model) <= _REMEMBERED_NAME:
                if len(self._on) >= _REMEMBERED:
                    self._on.clear()
                self._on[model] = found
        return found


# Of admins by socket or token; where there is no policy, of everybody, since then the modes of
# --admin decide about what changes the server.
ALL_RIGHTS = Rights([Grant("", ("*",), re.compile(".*", re.DOTALL), frozenset(ACTIONS))])


def groups_of(policy: Policy, names: Iterable[str]) -> list[str]:
    """The groups in which somebody is who has these names, in their order in the file."""
    known = list(names)
    return [name for name, group in policy.groups.items() if any(map(group.takes.fullmatch, known))]


def rights_of(policy: Policy, groups: Sequence[str]) -> Rights:
    """The rights of somebody who is in these groups, and in no other: those of all together."""
    grants = [
        Grant(
            name,
            right.models,
            re.compile("|".join(map(fnmatch.translate, right.models))),
            frozenset(right.actions),
        )
        for name in groups
        for right in policy.groups[name].rights
    ]
    limits = (policy.groups[name].limits for name in groups)
    return Rights(grants, next(filter(None, limits), None))
