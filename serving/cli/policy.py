"""`convserve policy check | explain`."""

from pathlib import Path
from typing import Annotated

import typer

from serving.base.command import AsJson, grouped
from serving.base.machine.terminal import next_step
from serving.cli.output import fail, print_json, say
from serving.server.access.followed import BadFile, read_checked
from serving.server.access.policy import (
    ACTIONS,
    Limits,
    Policy,
    groups_of,
    parse_policy,
    rights_of,
)

_File = Annotated[Path, typer.Argument(help="The server's --policy.")]


def check(file: _File, as_json: AsJson = False) -> None:
    """Read a policy as a server does. Exit status 1 where it cannot be used."""
    policy = _read(file)
    if as_json:
        print_json(policy.model_dump(mode="json"))
        return
    for name, group in policy.groups.items():
        say(f"{name}: {', '.join(group.members)}{_limits(group.limits)}")
        for right in group.rights:
            say(f"  {', '.join(right.actions)} on {', '.join(right.models)}")
    next_step("policy", "explain", file, "CALLER", "MODEL", "infer")


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
    as_json: AsJson = False,
) -> None:
    """Say whether a caller may do something, and why. Exit status 1 where not."""
    policy = _read(file)
    found = next((one for one in ACTIONS if one == action), None)
    if found is None:
        fail(f"ACTION: expected one of {', '.join(ACTIONS)}, got {action!r}")
    names = [name.strip() for name in who.split(",") if name.strip()]
    groups = groups_of(policy, names)
    rights = rights_of(policy, groups)
    allowed = found in (rights.on(model) if model else rights.everywhere)
    limiting = [name for name in groups if policy.groups[name].limits is rights.limits]
    limits = rights.limits
    if allowed:
        reasons = [
            f"{grant.group} has {found} on {', '.join(grant.models)}"
            for grant in rights.grants
            if found in grant.actions and (not model or grant.matches.fullmatch(model))
        ]
    elif not groups:
        reasons = ["in no group; without credentials the answer is UNAUTHENTICATED (401)"]
    elif model and not rights.on(model):
        reasons = [f"no group has a right to {model!r}; the answer is NOT_FOUND (404)"]
    else:
        reasons = [f"no group has {found}; the answer is PERMISSION_DENIED (403)"]
    if as_json:
        told = None if limits is None else limits.model_dump(mode="json", exclude_none=True)
        print_json({"allowed": allowed, "reasons": reasons, "groups": list(groups), "limits": told})
    else:
        say(f"groups: {', '.join(groups) or 'none'}")
        if limits is not None:
            say(f"limits of {limiting[0]}{_limits(limits)}")
        for reason in reasons:
            say(f"{'allowed' if allowed else 'refused'}: {reason}")
    if not allowed:
        raise typer.Exit(1)
    if not as_json:
        next_step("serve", "--model-repository", "FOLDER", "--policy", file)


def _read(file: Path) -> Policy:
    try:
        return read_checked(file, parse_policy)
    except BadFile as error:
        fail(str(error))


def _limits(limits: Limits | None) -> str:
    given = limits.model_dump(exclude_none=True) if limits else {}
    listed = ", ".join(f"{name} {value:g}" for name, value in given.items())
    return f"; {listed}" if listed else ""


app = grouped(
    "policy",
    "Check the policy of a server (--policy), and ask it.",
    check=check,
    explain=explain,
)
