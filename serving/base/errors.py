"""Every error that the server raises on purpose.

ServingError
├── InvalidInput          bad image, tensor, parameter
│   ├── RequestTooLarge   a body beyond the message limit
│   ├── RequestTooSlow    a body that did not arrive in time
│   └── AnswerTooLarge    an answer beyond the message limit
├── Unauthenticated       nobody knows its caller
├── ModelNotFound         no such model or version
│   └── ModelHidden       there may be one, which its caller may not know of
├── ModelNotReady         known, but loading, failed or draining
│   └── EngineRestarts    its engine process is started again; carries a retry delay
├── WrongTask             a classifier asked to segment, ...
├── NotOffered            part of a protocol that this server does not offer
├── NotAllowed            call of somebody who may not
├── QueueFull             bounded queue or byte budget is used up
│   └── OverLimit         its caller has used up a limit of his own
├── Shed                  cannot be met within its deadline; carries a retry delay
├── DeadlineExpired       its time ran out while it waited
├── EngineError           the runtime failed
└── ModelLoadError        a model folder that cannot be served
    ├── InvalidModelConfig
    ├── InvalidManifest
    ├── EngineUnavailable
    ├── SelfCheckFailed
    └── NotTrusted        no trusted key has signed it as it is
"""

import copyreg
import reprlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from serving.base.text import one_line

# Characters of a caller's value that an error repeats. More would fill logs and trailers with long
# values, fewer would make them hard to recognise.
_QUOTED = 200

# Models that the text for a missing one lists.
_LISTED = 100

# Characters of the whole account of an error in the log. It may hold a line of a runtime for each
# variant and engine; a file of somebody else could make it megabytes.
_DETAIL = 10_000

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = _QUOTED
_short.maxlist = _short.maxtuple = _short.maxdict = 16
# Sixteen elements of each of so many levels are looked at.
_short.maxlevel = 4


def quoted(value: object) -> str:
    """A caller's value for the text of an error: its repr, cut at 200 characters."""
    text = _short.repr(value)
    return text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "..."


def no_model(name: str, known: Collection[str], sees: Callable[[str], bool] | None = None) -> str:
    """The text for a model that is not there. It lists those that are, where they are few and the
    caller may know of them (`sees`): looking through thousands would hold up other calls."""
    if len(known) > _LISTED:
        return f"no model {quoted(name)}"
    return f"no model {quoted(name)}; this server has {sorted(filter(sees, known))}"


Raised = TypeVar("Raised", bound=BaseException)


def without_frames(error: Raised) -> Raised:
    """The error, which lets go of the frames that it came through. An error that is kept would keep
    all that they hold: messages, images."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class ServingError(Exception):
    """Base of all errors here; its text may be shown to a caller."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Rebuilt without __init__, whose arguments may differ from `args`.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InvalidInput(ServingError):
    """The caller's mistake; the text gives the expected and the actual value.

    remedy: change the request as the text says.
    """


class RequestTooLarge(InvalidInput):
    """A body of more bytes than a message may have.

    remedy: send fewer or smaller images, or raise max_message_mib.
    """


class RequestTooSlow(InvalidInput):
    """A body that stood still, or did not arrive in the time that its size allows.

    remedy: send the body without pauses; on a slow line raise http_stall_seconds and
        http_transfer_seconds.
    """


class AnswerTooLarge(InvalidInput):
    """A request whose answer would have more bytes than a message may have.

    remedy: ask for less: fewer images, masks as RLE or of the model's size, binary data over REST.
    """


class Unauthenticated(ServingError):
    """The call names no caller, or one whom its credentials do not prove. The text says no more
    than which credentials are meant.

    remedy: send a key, a token or a certificate that the server knows and that has not expired.
    """


class ModelNotFound(ServingError):
    """The repository has no model, or no version of it, by this name.

    remedy: take a name that the text lists, or that `convserve models` does.
    """


class ModelHidden(ModelNotFound):
    """The caller may not know whether there is such a model. To him it is ModelNotFound.

    remedy: have the policy give the caller a right on the model.
    """


class ModelNotReady(ServingError):
    """The model exists but does not serve at the moment; the text says why.

    remedy: try again, on another server where there is one; else mend what /readyz names.
    """


class EngineRestarts(ModelNotReady):
    """The process that runs the model has ended and is started again.

    remedy: try again after the delay.
    retry_after: seconds after which it is likely to serve.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WrongTask(ServingError):
    """The call is for another task than the model's.

    remedy: call the method of the model's task, which the text names.
    """


class NotOffered(ServingError):
    """The call is part of the protocol, but this server does not offer it.

    remedy: do without, or set what the text names.
    """


class NotAllowed(ServingError):
    """A call that its caller may not make; the text names the flag or the action that permits it.

    remedy: call over the admin socket or with its token, or have the policy permit the action.
    """


class QueueFull(ServingError):
    """The bounded queue, or the budget of bytes in flight, is used up.

    remedy: try again after the delay; where it lasts, add replicas or memory.
    retry_after: seconds after which a place is likely to be free.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverLimit(QueueFull):
    """A limit of the caller's own is used up; others may have place.

    remedy: try again after the delay, or have the policy raise the limit.
    """


class Shed(ServingError):
    """Refused at once, because its deadline could not have been met.

    remedy: try again after the delay, or with a longer deadline; where it lasts, add replicas.
    retry_after: seconds after which the same call would have been met.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExpired(ServingError):
    """The call's deadline passed while it waited.

    remedy: set a longer deadline; where it lasts, add replicas.
    """


class EngineError(ServingError):
    """The runtime failed to run a batch.

    The text is one line of at most REASON_LENGTH characters.

    remedy: look for the traceback in the log; try another variant or engine.
    detail: the message before it was cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
        self.detail = message


class ModelLoadError(ServingError):
    """A model folder that cannot be served; the text names the file and the field.

    The text is one line of at most REASON_LENGTH characters.

    remedy: mend what the text names, and load again.
    detail: the full account, for the log; by default the message before it was cut.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(one_line(message))
        whole = detail or message
        self.detail = whole if len(whole) <= _DETAIL else f"{whole[:_DETAIL]} …"


class InvalidModelConfig(ModelLoadError):
    """config.pbtxt does not parse, or does not fit the model file.

    remedy: mend the line or field that the text names.
    """


class InvalidManifest(ModelLoadError):
    """manifest.json does not parse, or names files that are not there.

    remedy: publish or copy the version again.
    """


class EngineUnavailable(ModelLoadError):
    """No runtime here can run the file.

    remedy: install an engine that `convserve doctor` names, or publish a variant for this machine.
    """


class SelfCheckFailed(ModelLoadError):
    """Wrong checksum, failed gate, or answers that differ from the published ones.

    remedy: copy the version again for a checksum, build again for a gate; pin another variant where
        this machine computes the graph otherwise.
    """


class NotTrusted(ModelLoadError):
    """A version that no trusted key has signed as it is; the text names the key and the difference.

    remedy: sign the version, or find out who changed it.
    """


class Told(NamedTuple):
    """An error in plain values, for another process.

    code: the name of its class here.
    text: the part that a caller may see.
    retry_after: seconds after which to try again; None where it knows none.
    detail: the full account; empty where the text is all.
    """

    code: str
    text: str
    retry_after: float | None = None
    detail: str = ""


_KINDS: dict[str, type[ServingError]] = {
    name: kind
    for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, ServingError)
}


def told(error: ServingError) -> Told:
    """An error for another process. One of a class that is not defined here goes as the nearest
    class above it."""
    code = next(k.__name__ for k in type(error).__mro__ if _KINDS.get(k.__name__) is k)
    known = vars(error)
    return Told(code, str(error), known.get("retry_after"), known.get("detail", ""))


def restored(told: Told) -> ServingError:
    """The error that another process told; a plain ServingError where its code is unknown here."""
    kind = _KINDS.get(told.code, ServingError)
    # Without __init__, which would make one line of the text once more.
    error = kind.__new__(kind, told.text)
    if isinstance(error, QueueFull | Shed | EngineRestarts):
        error.retry_after = told.retry_after or 0.0
    elif isinstance(error, EngineError | ModelLoadError):
        error.detail = told.detail
    return error
