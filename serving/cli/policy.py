"""`convserve policy check | explain`."""

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.output import fail, say
from serving.server.access.followed import BadFile, read_checked
from serving.server.access.policy import (
    ACTIONS,
    Limits,
    Policy,
    groups_of,
    parse_policy,
    rights_of,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_policy = typer.Typer(help="Check the policy of a server (--policy), and ask it.")
app.callback()(lambda: None)
app.add_typer(_policy, name="policy")

_File = Annotated[Path, typer.Argument(help="The server's --policy.")]


@_policy.command("check")
def check(file: _File) -> None:
    """Read a policy as a server does. Exit status 1 where it cannot be used."""
    policy = _read(file)
    for name, group in policy.groups.items():
        say(f"{name}: {', '.join(group.members)}{_limits(group.limits)}")
        for right in group.rights:
            say(f"  {', '.join(right.actions)} on {', '.join(right.models)}")


@_policy.command("explain")
def explain(
    file: _File,
    who: Annotated[
        str,
        typer.Argument(
            help="A caller by all names, with commas between: key:clinic-1, "
            "jwt:alice,role:operators, cert:URI:spiffe://prod/web, anonymous."
        ),
    ],
    model: Annotated[str, typer.Argument(help="A model's name, or '' for what concerns none.")],
    action: Annotated[str, typer.Argument(help=f"One of {', '.join(ACTIONS)}.")],
) -> None:
    """Say whether a caller may do something, and why. Exit status 1 where not."""
    policy = _read(file)
    found = next((one for one in ACTIONS if one == action), None)
    if found is None:
        fail(f"ACTION: expected one of {', '.join(ACTIONS)}, got {action!r}")
    names = [name.strip() for name in who.split(",") if name.strip()]
    groups = groups_of(policy, names)
    rights = rights_of(policy, groups)
    say(f"groups: {', '.join(groups) or 'none'}")
    if rights.limits is not None:
        group = next(name for name in groups if policy.groups[name].limits is rights.limits)
        say(f"limits of {group}{_limits(rights.limits)}")
    if found in (rights.on(model) if model else rights.everywhere):
        for grant in rights.grants:
            if found in grant.actions and (not model or grant.matches.fullmatch(model)):
                say(f"allowed: {grant.group} has {found} on {', '.join(grant.models)}")
        return
    if not groups:
        reason = "in no group; without credentials the answer is UNAUTHENTICATED (401)"
    elif model and not rights.on(model):
        reason = f"no group has a right to {model!r}; the answer is NOT_FOUND (404)"
    else:
        reason = f"no group has {found}; the answer is PERMISSION_DENIED (403)"
    say(f"refused: {reason}")
    raise typer.Exit(1)


def _read(file: Path) -> Policy:
    try:
        return read_checked(file, parse_policy)
    except BadFile as error:
        fail(str(error))


def _limits(limits: Limits | None) -> str:
    given = limits.model_dump(exclude_none=True) if limits else {}
    listed = ", ".join(f"{name} {value:g}" for name, value in given.items())
    return f"; {listed}" if listed else ""
