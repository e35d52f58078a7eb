"""What importing a part of the program does not bring along."""

import json
import subprocess
import sys

import pytest

TORCH = {"torch", "torchvision", "pytorch_lightning", "sklearn", "training"}
RUNTIMES = {"onnxruntime", "openvino", "tensorrt"}
HEAVY = TORCH | RUNTIMES | {"numpy", "cv2", "PIL", "grpc", "google", "pydantic", "typer", "serving"}


def modules_after(statements: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after running the statements."""
    end = "print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    finished = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{statements}\n{end}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(finished.stdout.splitlines()[-1]))


def command(*arguments: str) -> str:
    """Statements that run the umbrella command with these arguments and outlive its exit."""
    return (
        f"from convserve.__main__ import main\nsys.argv = {['convserve', *arguments]!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )


@pytest.mark.parametrize(
    "module", ["serving.server.server", "serving.cli.serve", "serving.cli.predictor"]
)
def test_serving_imports_neither_torch_nor_training_nor_a_runtime(module: str) -> None:
    found = modules_after(f"import {module}")
    assert "serving" in found
    assert not found & (TORCH | RUNTIMES)


def test_pixels_and_measures_that_training_shares_need_no_server() -> None:
    found = modules_after(
        "import serving.images.preprocess, serving.base.evaluation, serving.repository.manifest"
    )
    assert "cv2" in found
    assert not found & (TORCH | RUNTIMES | {"grpc", "google", "aiohttp", "typer"})


def test_client_needs_the_protos_and_no_engine() -> None:
    found = modules_after("import serving.client")
    assert {"grpc", "protos"} <= found
    assert not found & (TORCH | RUNTIMES | {"cv2", "aiohttp", "typer", "prometheus_client"})


@pytest.mark.parametrize("argument", ["--help", "-h", "help", "--version"])
def test_help_imports_nothing_heavy(argument: str) -> None:
    found = modules_after(command(argument))
    assert "convserve" in found
    assert not found & HEAVY


@pytest.mark.parametrize("name", ["serve", "doctor"])
def test_help_of_a_serving_command_imports_no_torch_and_no_runtime(name: str) -> None:
    found = modules_after(command(name, "--help"))
    assert "serving" in found
    assert not found & (TORCH | RUNTIMES)
