"""The names of `import convserve`, and what importing it does not bring along."""

import inspect
import json
import subprocess
import sys
from typing import get_args

import pytest

import convserve
from convserve.builds import Stage
from training.cli.build import STAGES

# Stable: one that is missing or called otherwise breaks programs of others.
NAMES = {
    "AsyncClient",
    "BuildError",
    "CallFailed",
    "Client",
    "ClientTls",
    "Recipe",
    "RecipeError",
    "Report",
    "Server",
    "StartError",
    "VerificationError",
    "build",
    "mask_of",
}


def test_names_are_those_that_were_promised() -> None:
    assert set(convserve.__all__) == NAMES
    assert set(convserve.__all__) <= set(dir(convserve))


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Recipes'"):
        _ = convserve.Recipes  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_has_types_and_a_docstring(name: str) -> None:
    found = getattr(convserve, name)
    assert (found.__doc__ or "").strip(), name
    callables = (
        [
            method
            for word, method in vars(found).items()
            if not word.startswith("_") and callable(getattr(method, "fget", method))
        ]
        if inspect.isclass(found)
        else [found]
    )
    for each in callables:
        function = getattr(each, "fget", each)
        function = getattr(function, "__wrapped__", function)
        if inspect.isfunction(function):
            assert (function.__doc__ or "").strip(), function
            assert "return" in function.__annotations__, function


def test_stages_of_build_are_those_of_the_command() -> None:
    assert get_args(Stage) == STAGES


def imported(statements: str) -> set[str]:
    """Top-level modules after the statements in a fresh interpreter."""
    program = f"import json, sys\n{statements}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_import_alone_brings_nothing() -> None:
    found = imported("import convserve; dir(convserve); convserve.__version__")
    assert not found & {"serving", "training", "protos", "numpy", "pydantic", "grpc", "torch"}


def test_recipes_and_reports_bring_no_torch_and_no_server() -> None:
    found = imported("import convserve; convserve.Recipe, convserve.Report, convserve.build")
    assert {"serving", "training"} <= found
    assert not found & {"torch", "grpc", "aiohttp", "onnxruntime", "openvino"}


def test_servers_and_clients_bring_no_torch() -> None:
    found = imported("import convserve; convserve.Server, convserve.Client")
    assert {"serving", "grpc"} <= found
    assert not found & {"torch", "training", "aiohttp", "onnxruntime", "openvino"}
