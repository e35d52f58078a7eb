"""The door: what it costs to ask, and whom it takes for whom."""

from pathlib import Path

import pytest

from serving.base.errors import ModelHidden, Unauthenticated
from serving.base.metrics import FrontMetrics
from serving.server.access.caller import Caller
from serving.server.access.door import Door, Visit
from serving.server.access.followed import Followed
from serving.server.access.identity import Identities, Identity
from serving.server.access.policy import Policy, parse_policy

METRICS = FrontMetrics()
POLICY = """
groups:
  a:
    members: ["jwt:*", "cert:DNS:*"]
    rights: [{models: ["x-*"], actions: [infer]}]
  b:
    members: ["jwt:b*"]
    rights: [{models: ["y-*"], actions: [infer]}]
"""


class NoAdmins:
    def identity(self, caller: Caller) -> str | None:
        return None


class Names:
    """Takes every token for the name of its caller.

    checked: the number of tokens.
    """

    def __init__(self) -> None:
        self.checked = 0

    def identity(self, token: str) -> Identity:
        self.checked += 1
        if token == "bad":
            raise Unauthenticated("no")
        return Identity(f"jwt:{token}", (f"jwt:{token}",))


class Set:
    """A door, its tokens, and its policy."""

    def __init__(self, folder: Path, text: str = POLICY) -> None:
        file = folder / "policy"
        file.write_text(text)
        self.policy: Followed[Policy] = Followed(
            "--policy", file, parse_policy, METRICS.access_failures
        )
        self.tokens = Names()
        identities = Identities(NoAdmins(), self.tokens, None, certificates=True)
        self.door = Door(identities, self.policy, None, METRICS, known_alone=True)

    def visit(self, token: str) -> Visit:
        return self.door.visit(Caller("192.0.2.1", f"Bearer {token}"))


@pytest.fixture
def made(tmp_path: Path) -> Set:
    return Set(tmp_path)


def test_callers_of_the_same_groups_share_their_rights(made: Set) -> None:
    """What is remembered of each grows with the groups, and not with the callers."""
    rights = {id(made.visit(f"a{number}").rights) for number in range(100)}
    assert len(rights) == 1
    assert made.visit("b1").rights is made.visit("b2").rights is not made.visit("a").rights
    assert made.visit("b1").sees("y-1")
    assert not made.visit("a1").sees("y-1")


def test_remembered_callers_are_bounded(made: Set) -> None:
    for number in range(5000):
        made.visit(f"a{number}")
    assert len(made.door._standings) <= 4096


def test_who_asks_a_probe_is_found_out_once_for_all_models(made: Set) -> None:
    for token, seen in (("bad", []), ("b1", ["x-1", "y-1"]), ("a1", ["x-1"])):
        before = made.tokens.checked
        sees = made.door.seen_by(Caller("192.0.2.1", f"Bearer {token}"))
        assert [name for name in ("x-1", "y-1", "z") * 1000 if sees(name)] == seen * 1000
        assert made.tokens.checked == before + 1


def test_nobody_can_take_the_turns_of_another_by_a_name_of_the_same_number(made: Set) -> None:
    """These two have the same CRC-32, of which names can be made to order."""
    assert made.visit("plumless").number != made.visit("buckeroo").number
    assert made.visit("plumless").number == made.visit("plumless").number


def test_a_model_that_is_missing_is_told_without_looking_through_thousands(made: Set) -> None:
    visit = made.visit("a1")
    for count, listed in ((3, True), (10_000, False)):
        known = [f"x-{number}" for number in range(count)]
        with pytest.raises(ModelHidden) as failure:
            visit.require("infer", "gone", known)
        assert ("this server has" in str(failure.value)) == listed
    assert len(visit.rights._on) <= 4


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (("DNS:a", "SUBJECT:CN=a"), "cert:DNS:a"),
        (("DNS:a\nb", "DNS:c"), "cert:DNS:c"),
        (("DNS:" + "a" * 300, "DNS:c"), "cert:DNS:c"),
    ],
)
def test_names_of_a_certificate_are_taken_whole_or_not(
    made: Set, certificate: tuple[str, ...], name: str
) -> None:
    assert made.door.visit(Caller("192.0.2.1", certificate=certificate)).name == name


@pytest.mark.parametrize("certificate", [("DNS:a\nb", "URI:" + "a" * 300), ()])
def test_certificate_without_a_name_that_is_taken_proves_nobody(
    certificate: tuple[str, ...], made: Set
) -> None:
    with pytest.raises(Unauthenticated, match="certificate has no name"):
        made.door.visit(Caller("192.0.2.1", "Bearer a1", certificate))
