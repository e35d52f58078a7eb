"""The one place that decides about callers: who it is, what he may do, and how much of it."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from serving.base.errors import (
    ModelHidden,
    NotAllowed,
    OverLimit,
    ServingError,
    Unauthenticated,
    no_model,
    quoted,
)
from serving.base.metrics import FrontMetrics
from serving.server.access.audit import Audit, Entry
from serving.server.access.caller import Caller, GetCaller, site_of
from serving.server.access.followed import Followed
from serving.server.access.identity import ANONYMOUS, Identities, Identity
from serving.server.access.limits import Account, Accounts
from serving.server.access.policy import (
    ALL_RIGHTS,
    Action,
    Policy,
    Rights,
    groups_of,
    rights_of,
)
from serving.server.error_status import status_of

# Callers whose rights are remembered, and callers with a label of their own in the metrics.
_REMEMBERED = 4096
_LABELS = 100
_OTHERS = "others"
# The numbers of callers, as the batches' records hold them.
_NUMBERS = (1 << 32) - 1
# Errors that refuse a call for its caller.
_REFUSALS = (Unauthenticated, NotAllowed, ModelHidden, OverLimit)
_NOBODY = Identity(ANONYMOUS, (ANONYMOUS,))
# The admins by socket or token, whom no policy concerns.
ADMINS = frozenset({"socket", "token"})


class Standing(NamedTuple):
    """A caller, as his calls need him.

    number: tells him from others in few bytes. Two who have the same share their turns.
    label: in the metrics.
    account: of his limits; None where he has none.
    """

    name: str
    rights: Rights
    number: int
    label: str
    account: Account | None


class Visit:
    """What one call may do, from its arrival to its answer.

    name, rights, number, label, account: the caller's.
    action, target: what the call has asked for last.
    admin: it changes the server.
    """

    __slots__ = (
        "_entered", "_held", "account", "action", "admin", "label", "name", "number", "rights",
        "target",
    )  # fmt: skip

    def __init__(self, standing: Standing) -> None:
        self.name, self.rights, self.number, self.label, self.account = standing
        # The account, once it has let the call in.
        self._entered: Account | None = None
        self._held = 0
        self.action = self.target = ""
        self.admin = False

    def enter(self) -> None:
        """Begins the call. Raises OverLimit."""
        if self.account is not None:
            self.account.enter()
            self._entered = self.account

    def require(
        self, action: Action, model: str | None = None, known: Collection[str] = ()
    ) -> None:
        """Raises ModelHidden for a model on which the caller may do nothing, NotAllowed where he
        may do something else alone; without a model, where he may do it on none.

        model: a name as the caller gives it, also an empty one; None for what concerns no model.
        known: names of models, of which the text repeats those that he may see.
        """
        rights = self.rights
        permitted = action in (rights.everywhere if model is None else rights.on(model))
        if model is not None or not permitted or not self.action:
            self.action, self.target = action, model or ""
        if permitted:
            return
        if model is not None and not rights.on(model):
            raise ModelHidden(self.no_model(model, known))
        of = "" if model is None else f" model {quoted(model)}"
        raise NotAllowed(f"{quoted(self.name)} has no right to {action}{of} in --policy")

    def sees(self, model: str) -> bool:
        """Whether the caller may know that there is such a model."""
        return bool(self.rights.on(model))

    def no_model(self, name: str, known: Collection[str]) -> str:
        """The text for a model that is not there, or not for him."""
        return no_model(name, known, self.sees)

    def hold(self, size: int) -> None:
        """Counts bytes until the call ends. Raises OverLimit."""
        if self._entered is not None:
            self._entered.hold(size)
            self._held += size

    def images(self, number: int) -> None:
        """Counts images that the call brings. Raises OverLimit."""
        if self._entered is not None:
            self._entered.images(number)

    def pixels(self, number: int) -> None:
        """Counts pixels of its images."""
        if self._entered is not None:
            self._entered.pixels(number)

    def leave(self) -> None:
        """Gives back what it has of the limits."""
        if self._entered is not None:
            self._entered.leave(self._held)


class Door:
    """Lets callers in.

    policy: decides where it is given; else whoever is known may do what everybody may.
    audit: has the record; None without one.
    known_alone: whoever shows nothing is refused, where there is no policy that says otherwise.
    """

    def __init__(
        self,
        identities: Identities,
        policy: Followed[Policy] | None,
        audit: Audit | None,
        metrics: FrontMetrics,
        *,
        known_alone: bool,
    ) -> None:
        self._identities = identities
        self._policy = policy
        self._audit = audit
        self._metrics = metrics
        self._known_alone = known_alone
        self._accounts = Accounts()
        self._standings: dict[Identity, Standing] = {}
        # By groups: many callers are in the same.
        self._of_groups: dict[tuple[str, ...], Rights] = {}
        self._labels: set[str] = set()
        if policy is not None:
            policy.changed = lambda _: self._forget()

    @property
    def has_policy(self) -> bool:
        """Whether rights are in a policy."""
        return self._policy is not None

    def known(self, caller: Caller) -> Standing:
        """That of a caller; of those who show nothing one for all. Raises Unauthenticated,
        ModelNotReady."""
        identity = self._identities.identity(caller)
        if identity is not None:
            return self._standing_of(identity)
        if self._policy is None and self._known_alone:
            raise Unauthenticated(self._identities.missing)
        standing = self._standing_of(_NOBODY)
        if self._policy is not None and not standing.rights.grants:
            raise Unauthenticated(self._identities.missing)
        return standing

    def _standing_of(self, identity: Identity) -> Standing:
        standing = self._standings.get(identity)
        if standing is None:
            if len(self._standings) >= _REMEMBERED:
                self._forget()
            name, rights = identity.name, self._rights_of(identity)
            account = self._account_of(name, rights)
            standing = Standing(name, rights, _number_of(name), self._label(name), account)
            self._standings[identity] = standing
        return standing

    def _rights_of(self, identity: Identity) -> Rights:
        if identity.name in ADMINS or self._policy is None:
            return ALL_RIGHTS
        policy = self._policy.content
        groups = tuple(groups_of(policy, identity.names))
        rights = self._of_groups.get(groups)
        if rights is None:
            rights = self._of_groups[groups] = rights_of(policy, groups)
        return rights

    def _account_of(self, name: str, rights: Rights) -> Account | None:
        return None if rights.limits is None else self._accounts.of(name, rights.limits)

    def _forget(self) -> None:
        self._standings.clear()
        self._of_groups.clear()

    def visit(self, caller: Caller) -> Visit:
        """What a call of this caller may do. Raises Unauthenticated, ModelNotReady."""
        standing = self.known(caller)
        if standing.name == ANONYMOUS:
            # Not remembered: strangers have as many addresses as they like.
            name, rights = f"address {site_of(caller.address or '')}", standing.rights
            account = self._account_of(name, rights)
            standing = Standing(name, rights, _number_of(name), ANONYMOUS, account)
        return Visit(standing)

    def seen_by(self, caller: Caller) -> Callable[[str], bool]:
        """Tells of which models a caller may know, for questions that everybody may ask. Who he is
        is found out once: to check a token takes 0.1 ms."""
        try:
            rights = self.known(caller).rights
        except ServingError:
            return _sees_nothing
        return lambda model: bool(rights.on(model))

    def ask(
        self,
        method: str,
        caller: GetCaller,
        action: Action,
        model: str | None = None,
        known: Collection[str] = (),
    ) -> Visit:
        """What a caller may do of a question that is no call: the metrics, the batches, reflection.
        model, known: as Visit.require has them. Raises Unauthenticated, NotAllowed, ModelHidden,
        ModelNotReady, OverLimit."""
        visit = error = None
        try:
            visit = self.visit(caller())
            visit.enter()
            visit.require(action, model, known)
        except ServingError as refusal:
            error = refusal
            raise
        finally:
            self.ended(visit, caller, method, (_code(error), "", error))
        return visit

    @contextlib.contextmanager
    def stream(self, method: str, caller: GetCaller) -> Iterator[None]:
        """Counts a stream of a caller until its end. Raises Unauthenticated, ModelNotReady,
        OverLimit."""
        visit = account = None
        try:
            visit = self.visit(caller())
            if visit.account is not None:
                visit.account.open_stream()
                account = visit.account
        except ServingError as error:
            self.ended(visit, caller, method, (_code(error), "", error))
            raise
        try:
            yield
        finally:
            if account is not None:
                account.close_stream()

    def ended(
        self,
        visit: Visit | None,
        caller: GetCaller,
        method: str,
        outcome: tuple[str, str, ServingError | None],
        *,
        infers: bool = False,
    ) -> None:
        """Ends a call: gives back what it had of limits, counts it and records it.

        visit: None where the call was refused before it had one.
        outcome: the code of its status, the name that its caller gave it, and its error.
        """
        code, request_id, error = outcome
        if visit is not None:
            visit.leave()
        self._metrics.caller_calls.count("" if visit is None else visit.label, code)
        refused = error is not None and isinstance(error, _REFUSALS)
        audit = self._audit
        if audit is None:
            return
        if not refused and not (visit and visit.admin) and not (infers and audit.samples):
            return
        address = caller().address
        entry = Entry(
            who=visit.name if visit else "",
            address="socket" if address is None else address,
            method=method,
            action=visit.action if visit else "",
            target=visit.target if visit else "",
            decision="refused" if refused else "allowed",
            code=code,
            reason="" if error is None else str(error),
            request_id=request_id,
        )
        if refused:
            audit.refused(entry)
        else:
            audit.allowed(entry)

    def _label(self, name: str) -> str:
        """The caller's name in the metrics. Only names that were proved have a label of their own,
        and of these the first alone: each is kept for ever."""
        if name != ANONYMOUS and name not in self._labels:
            if len(self._labels) >= _LABELS:
                return _OTHERS
            self._labels.add(name)
        return name


def _sees_nothing(_: str) -> bool:
    return False


def _number_of(name: str) -> int:
    """Tells a caller from others. Nobody must be able to find a name with the number of another:
    Python's hash of a text has a key that each process draws anew."""
    return hash(name) & _NUMBERS or 1


def _code(error: ServingError | None) -> str:
    return "OK" if error is None else status_of(error).code
