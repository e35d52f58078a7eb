"""Policies: what they permit, and what is said of wrong ones."""

import pytest

from serving.server.access.followed import BadFile
from serving.server.access.policy import Rights, groups_of, parse_policy, rights_of

CLINICS = """
groups:
  clinics:
    members: ["key:clinic-*", "cert:URI:spiffe://prod/clinic/*"]
    rights:
      - models: [xray-*, "[ab]-small"]
        actions: [infer, metadata]
      - models: [xray-chest]
        actions: [statistics]
    limits: {requests_per_second: 5}
  operators:
    members: [role:ops, jwt:alice]
    rights:
      - {models: ["*"], actions: [load, settings, metrics]}
    limits: {calls: 3}
  anybody:
    members: [anonymous]
    rights:
      - {models: [demo], actions: [infer]}
"""


def rights(*names: str) -> Rights:
    policy = parse_policy(CLINICS)
    return rights_of(policy, groups_of(policy, names))


def test_rights_are_those_of_all_groups_on_models_that_match() -> None:
    clinic = rights("key:clinic-7")
    assert clinic.on("xray-chest") == {"infer", "metadata", "statistics"}
    assert clinic.on("xray-") == clinic.on("a-small") == {"infer", "metadata"}
    for model in ("xray", "my-xray-1", "c-small", "demo", "", "XRAY-1"):
        assert clinic.on(model) == frozenset()
    both = rights("jwt:alice", "role:nurse", "cert:URI:spiffe://prod/clinic/3")
    assert both.on("xray-1") == {"infer", "metadata", "load", "settings", "metrics"}
    assert both.on("other") == {"load", "settings", "metrics"}
    assert both.everywhere == both.on("xray-chest")
    assert rights("anonymous").on("demo") == {"infer"}


def test_limits_are_those_of_the_first_group_that_has_some() -> None:
    first = rights("jwt:alice", "key:clinic-1").limits
    assert first is not None
    assert first.requests_per_second == 5
    second = rights("jwt:alice").limits
    assert second is not None
    assert second.calls == 3
    assert rights("anonymous").limits is None


@pytest.mark.parametrize("names", [(), ("key:clinic",), ("key:Clinic-1",), ("role:op",), ("*",)])
def test_nobody_else_has_any(names: tuple[str, ...]) -> None:
    assert rights(*names).everywhere == frozenset()
    assert rights(*names).on("xray-1") == frozenset()


def test_names_that_nobody_asked_for_before_take_bounded_memory() -> None:
    known = rights("key:clinic-1")
    for number in range(2000):
        known.on(f"xray-{number}")
    assert len(known._on) <= 256


def test_long_names_of_models_are_not_kept() -> None:
    """A caller may send 30 MiB of name, as often as he likes."""
    known = rights("key:clinic-1")
    for number in range(3):
        assert known.on("xray-" + "x" * (1 << 20) + str(number)) == {"infer", "metadata"}
    assert not known._on


RIGHT = "rights: [{models: [a], actions: [infer]}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected keys and values, got None"),
        ("[1]", "expected keys and values, got [1]"),
        ("groups: [", "not valid YAML"),
        ("a: 2026-99-99", "not valid YAML"),
        ("{}", "groups: missing"),
        ("groups: {}", "groups: "),
        ("grups: {}", "groups: missing; grups: unknown key; did you mean 'groups'?"),
        (f"groups: {{a: {{{RIGHT}}}}}", "groups.a.members: missing"),
        (
            f"groups: {{a: {{members: [clinic], {RIGHT}}}}}",
            "groups.a.members.0: expected cert:NAME, jwt:NAME, role:NAME, key:NAME, anonymous or *",
        ),
        (
            "groups: {a: {members: ['*'], rights: [{models: [m], actions: [infr]}]}}",
            "groups.a.rights.0.actions.0: input should be 'infer', ",
        ),
        (
            "groups: {a: {members: ['*'], rights: [{models: m, actions: [infer]}]}}",
            "groups.a.rights.0.models: ",
        ),
        (
            "groups: {a: {members: ['*'], rights: [{model: [m], actions: [infer]}]}}",
            "groups.a.rights.0.models: missing; groups.a.rights.0.model: unknown key; "
            "did you mean 'models'?",
        ),
        (
            f"groups: {{a: {{members: ['*'], limits: {{calls: 0}}, {RIGHT}}}}}",
            "groups.a.limits.calls: input should be greater than 0, got 0",
        ),
        (
            f"groups: {{a: {{members: ['*'], limits: {{request_per_second: 1}}, {RIGHT}}}}}",
            "groups.a.limits.request_per_second: unknown key; did you mean 'requests_per_second'?",
        ),
        (
            f"groups: {{a: {{members: ['*'], limits: {{pixels_per_second: .nan}}, {RIGHT}}}}}",
            "groups.a.limits.pixels_per_second: ",
        ),
        (
            f"groups: {{a: {{members: ['*'], limits: {{requests_per_second: 1e-320}}, {RIGHT}}}}}",
            "groups.a.limits.requests_per_second: input should be greater than or equal to",
        ),
        (
            f"groups: {{a: {{members: ['*'], limits: {{calls: true}}, {RIGHT}}}}}",
            "groups.a.limits.calls: expected a number, got True",
        ),
        (
            f"groups: {{a: {{members: ['*'], {RIGHT}}}, a: {{members: ['*']}}}}",
            "not valid YAML: while constructing a mapping",
        ),
    ],
)
def test_wrong_policy_is_told_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(BadFile) as failure:
        parse_policy(text)
    assert str(failure.value).startswith(expected)
    assert "\n" not in str(failure.value)


def test_many_mistakes_are_told_in_few_words() -> None:
    groups = {f"g{number}": {"wrong": "x" * 1000} for number in range(500)}
    with pytest.raises(BadFile, match=r"and \d+ more") as failure:
        parse_policy(f"groups: {groups}")
    assert len(str(failure.value)) < 2500
