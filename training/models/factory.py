"""Networks that a user's own code makes: `package.module:function` of a recipe.

Only a factory that a recipe of this process names is ever called: `register_factory` keeps what
`build_model` and files of networks may refer to, so that a file cannot name code of its own.
"""

import contextlib
import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from training.errors import BuildError, RecipeError
from training.models.entry import ModelEntry
from training.recipes.model import ModelChoice


@dataclass(frozen=True)
class Factory:
    """A function that makes networks.

    name: package.module:function.
    function: called with num_classes, where it takes that, and the options.
    module: where it stands.
    root: the recipe's folder, or an installed package; what lies below is the user's code.
    sha256: of the sources of `module` and of those below `root` that it uses.
    """

    name: str
    function: Callable[..., Any]
    module: ModuleType
    root: Path
    sha256: str


class Chosen(nn.Module):
    """A network of several answers, of which one is given on.

    output: key of a mapping, attribute of a named tuple, or index.
    """

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, image: Tensor) -> Any:
        answer = self.network(image)
        if isinstance(answer, Mapping):
            return answer[self.output]
        if self.output.lstrip("-").isdecimal():
            return answer[int(self.output)]
        return getattr(answer, self.output)


_FACTORIES: dict[str, Factory] = {}
# Names of the modules that were imported from the folder of a recipe.
_OWN: set[str] = set()


def register_factory(choice: ModelChoice) -> Factory | None:
    """Imports the factory that a recipe names, unless it is imported as it is now; None where the
    recipe names none.

    Raises RecipeError where there is no such module or function, or where its code fails.
    """
    if choice.factory is None:
        return None
    folder = (choice.folder or Path()).resolve()
    known = _FACTORIES.get(choice.factory)
    if known is not None and _is_current(known, folder):
        return known
    module_name, _, function_name = choice.factory.partition(":")
    with _importing_from(folder), user_code(choice.factory, folder):
        module = _import(module_name, folder)
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [name for name, value in vars(module).items() if _made_in(value, module)]
        raise RecipeError(
            f"model.factory: {module.__file__} has no function {function_name}; it has "
            f"{', '.join(own[:8]) or 'none'}"
        )
    root = _root(module, folder)
    found = Factory(choice.factory, function, module, root, _sources(module, root))
    _FACTORIES[choice.factory] = found
    return found


def factory_entry(name: str) -> ModelEntry | None:
    """The entry of a registered factory, "module:function" or "module:function#output"; None for
    other names. ValueError for a factory that no recipe has named."""
    if ":" not in name:
        return None
    factory = _FACTORIES.get(name.partition("#")[0])
    if factory is None:
        raise ValueError(f"the recipe does not name the factory {name}, so its code is not run")

    def build(num_classes: int, **options: Any) -> nn.Module:
        return _call(factory, name.partition("#")[2], num_classes, options)

    return ModelEntry(build, None, (224, 224), "own:network", options=None, on_meta=False)


def factory_fingerprint(choice: ModelChoice) -> str | None:
    """sha256 of the sources of a recipe's factory; None where it names none."""
    factory = register_factory(choice)
    return None if factory is None else factory.sha256


def user_code_of(choice: ModelChoice) -> contextlib.AbstractContextManager[None]:
    """user_code for the network of a recipe's factory; nothing for other networks."""
    factory = register_factory(choice)
    return contextlib.nullcontext() if factory is None else user_code(factory.name, factory.root)


def _call(factory: Factory, output: str, classes: int, options: dict[str, Any]) -> nn.Module:
    arguments = dict(options)
    if _takes(factory.function, "num_classes"):
        arguments.setdefault("num_classes", classes)
    _require_taken(factory, arguments)
    with _importing_from(factory.root), user_code(factory.name, factory.root):
        network = factory.function(**arguments)
    if not isinstance(network, nn.Module):
        raise RecipeError(
            f"model.factory: {factory.name} gave a {type(network).__name__}, expected a "
            "torch.nn.Module"
        )
    return Chosen(network, output) if output else network


def _require_taken(factory: Factory, arguments: dict[str, Any]) -> None:
    """Raises RecipeError where the options are not those of the function."""
    try:
        signature = inspect.signature(factory.function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise RecipeError(
            f"model.options: {factory.name} takes {str(signature)[:300]}: {error}"
        ) from error


def _takes(function: Callable[..., Any], argument: str) -> bool:
    if getattr(function, "__init__", None) is nn.Module.__init__:
        return False  # a class without one of its own: torch's takes any name, and refuses it
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return argument in parameters or any(
        one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()
    )


@contextlib.contextmanager
def user_code(name: str, root: Path) -> Iterator[None]:
    """Turns an error of the code below `root`, or on the way to it, into one line with its file and
    line. What it prints goes to stderr: stdout belongs to the command."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except BuildError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, root) or _line(traceback.extract_tb(error.__traceback__)[-1])
        raise RecipeError(_told(name, error, place)) from error


@contextlib.contextmanager
def user_forward(choice: ModelChoice) -> Iterator[None]:
    """As user_code, of the network of a recipe's factory, in work that runs much code beside it:
    other errors pass."""
    factory = register_factory(choice)
    try:
        yield
    except Exception as error:
        place = _place(error, factory.root) if factory is not None else ""
        if factory is None or not place or isinstance(error, BuildError):
            raise
        raise RecipeError(_told(factory.name, error, place)) from error


def _told(name: str, error: BaseException, place: str) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"model.factory: {name}: {said} ({place})"


def _place(error: BaseException, root: Path) -> str:
    """File and line of the last step in the code below `root`; empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return next((_line(one) for one in reversed(frames) if _is_own(one.filename, root)), "")


def _line(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}, line {frame.lineno}"


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    before = dict(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        new = [one for one, module in sys.modules.items() if before.get(one) is not module]
        _OWN.update(one for one in new if _is_own(_file(sys.modules[one]), folder))


def _import(name: str, folder: Path) -> ModuleType:
    """Imports a module anew where the folder has it: it may be another recipe's of that name, or
    have changed, as may those that it imports."""
    top = name.partition(".")[0]
    if _has(folder, top):
        for own in _OWN:
            sys.modules.pop(own, None)
        _OWN.clear()
        if top in sys.modules:
            raise RecipeError(
                f"model.factory: {top} is also the name of an installed module; rename yours"
            )
    importlib.invalidate_caches()
    return importlib.import_module(name)


def _is_current(known: Factory, folder: Path) -> bool:
    top = known.name.partition(":")[0].partition(".")[0]
    moved = _has(folder, top) and known.root != folder
    return not moved and _sources(known.module, known.root) == known.sha256


def _has(folder: Path, top: str) -> bool:
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


def _root(module: ModuleType, folder: Path) -> Path:
    if _is_own(_file(module), folder):
        return folder
    top = sys.modules[module.__name__.partition(".")[0]]
    places = list(getattr(top, "__path__", []))
    return Path(places[0] if places else _file(module)).resolve()


def _file(module: ModuleType) -> str:
    """A module's file, or the folder of a package without one."""
    own = vars(module)
    return str(own.get("__file__") or next(iter(own.get("__path__") or []), ""))


def _is_own(file: str, root: Path) -> bool:
    """Whether a file lies below `root`, and in no environment below that."""
    path = Path(file).resolve()
    inside = bool(file) and path.is_relative_to(root)
    return inside and "site-packages" not in path.relative_to(root).parts


def _made_in(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _sources(module: ModuleType, root: Path) -> str:
    digest = hashlib.sha256()
    for name, file in sorted(_used(module, root).items()):
        digest.update(name.encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _used(module: ModuleType, root: Path) -> dict[str, Path]:
    """The file of a module, and of the modules below `root` that it uses, each found by the names
    that stand in the one that uses it."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        one = waiting.pop()
        if one.__name__ in found or not _is_own(_file(one), root):
            continue
        found[one.__name__] = Path(_file(one))
        for value in list(vars(one).values()):
            owner = value.__name__ if isinstance(value, ModuleType) else None
            owner = owner or getattr(value, "__module__", None)
            if isinstance(owner, str) and isinstance(sys.modules.get(owner), ModuleType):
                waiting.append(sys.modules[owner])
    return found
