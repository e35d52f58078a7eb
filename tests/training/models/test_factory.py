"""A user's own network: found, called, checked against the task, and told about in one line."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training.errors import RecipeError
from training.models import build_model
from training.models.checkpoint import load_network, save_network
from training.models.factory import factory_fingerprint, register_factory
from training.models.networks import check_network
from training.recipes import load_recipe
from training.recipes.model import ModelChoice

MODULE = """
import torch
from torch import nn
from layers import block

class Net(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.body = block(3, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

class Several(Net):
    def forward(self, x):
        return {"features": self.body(x), "logits": super().forward(x)}

class Pair(Net):
    def forward(self, x):
        return self.body(x), super().forward(x)

class Raising(Net):
    def forward(self, x):
        return self.missing(x)

def small(num_classes, width=8):
    return Net(num_classes, width)

def ten(width=8):
    return Net(10, width)

def several(num_classes):
    return Several(num_classes, 8)

def pair(num_classes):
    return Pair(num_classes, 8)

def raising(num_classes):
    print("on the way")
    return Raising(num_classes, 8)

def broken(num_classes):
    return num_classes / 0

def no_network():
    return 3

def leaving():
    raise SystemExit(2)

class Otherwise(Net):
    def __init__(self, how):
        super().__init__(10, 8)
        self.how = how

    def forward(self, x):
        found = super().forward(x)
        return {"row": found[0], "half": found.half(), "double": found.double()}[self.how]

def otherwise(how):
    return Otherwise(how)

def any_options(**options):
    return Net(10, 8)

class Means(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))

def masks(num_classes):
    return nn.Conv2d(3, num_classes, 1)
"""
LAYERS = """
from torch import nn

def block(inside, outside):
    return nn.Sequential(nn.Conv2d(inside, outside, 3), nn.BatchNorm2d(outside), nn.ReLU())
"""
RECIPE = """
name: mine
task: {task}
data: {{source: {source}}}
transform: {{resize: [16, 20]}}
model: {model}
train: {{epochs: 1, batch_size: 2, optimizer: {{name: sgd, lr: 0.1}}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mynets.py").write_text(MODULE)
    (tmp_path / "layers.py").write_text(LAYERS)
    return tmp_path


def recipe(folder: Path, model: str, task: str = "classification") -> Any:
    source = "digits" if task == "classification" else "connectors"
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(model=model, task=task, source=source))
    return load_recipe(file)


@pytest.mark.parametrize(
    "model",
    [
        "{factory: 'mynets:small', options: {width: 4}}",
        "{factory: 'mynets:ten'}",
        "{factory: 'mynets:any_options'}",
        "{factory: 'mynets:several', output: logits}",
        "{factory: 'mynets:pair', output: 1}",
        "{factory: 'torchvision.models:shufflenet_v2_x0_5'}",
    ],
)
def test_a_network_of_the_recipes_folder_or_a_package_is_taken(folder: Path, model: str) -> None:
    check_network(recipe(folder, model))


def test_a_network_for_masks_is_taken_by_its_answer(folder: Path) -> None:
    check_network(recipe(folder, "{factory: 'mynets:masks'}", "segmentation"))
    with pytest.raises(
        RecipeError, match=r"with float32 \[2, 2, 16, 20\]; expected float32 \[2, C\]"
    ):
        check_network(recipe(folder, "{factory: 'mynets:masks'}"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "{factory: 'mynets:several'}",
            "answers two images of 16x20 with {features: float32 [2, 8, 14, 18], logits: float32 "
            "[2, 2]}; expected float32 [2, C]; name one of them by model.output",
        ),
        ("{factory: 'mynets:several', output: x}", "mynets:several: KeyError: 'x'"),
        ("{factory: 'mynets:pair', output: 5}", "mynets:pair: IndexError"),
        ("{factory: 'mynets:raising'}", "has no attribute 'missing' (FOLDER/mynets.py, line 25)"),
        ("{factory: 'mynets:broken'}", "ZeroDivisionError: division by zero (FOLDER/mynets.py, l"),
        ("{factory: 'mynets:no_network'}", "gave a int, expected a torch.nn.Module"),
        ("{factory: 'mynets:leaving'}", "SystemExit: 2 (FOLDER/mynets.py"),
        ("{factory: 'mynets:smal'}", "has no function smal; it has Net, Several, Pair, Rais"),
        ("{factory: 'nowhere:net'}", "ModuleNotFoundError: No module named 'nowhere'"),
        ("{factory: 'mynets:small', options: {depth: 2}}", "mynets:small takes (num_classes, "
            "width=8): got an unexpected keyword argument 'depth'"),
        ("{factory: 'mynets:otherwise'}", "model.options: mynets:otherwise takes (how): missing a "
            "required argument: 'how'"),
        ("{factory: 'mynets:otherwise', options: {how: row}}", "with float32 [10]; expected float32"
            " [2, C]"),
        ("{factory: 'mynets:otherwise', options: {how: half}}", "with float16 [2, 10]; expected "
            "float32 [2, C]"),
        ("{factory: 'mynets:otherwise', options: {how: double}}", "with float64 [2, 10]; expected "
            "float32 [2, C]"),
        ("{factory: 'mynets:Means'}", "mynets:Means has no parameters that training could change"),
        ("{factory: 'json:small'}", "has no function small"),
        ("{factory: 'small'}", "model.factory: string should match pattern"),
        ("{factory: 'a:b', name: resnet18}", "expected one of name, factory, onnx, exported; got "
            "name and factory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(folder: Path, model: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        check_network(recipe(folder, model))
    assert said.replace("FOLDER", str(folder)) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_module_is_named_with_its_line(folder: Path) -> None:
    (folder / "mynets.py").write_text("import torch\ndef small(:\n")
    with pytest.raises(RecipeError, match=rf"SyntaxError.*{folder}/mynets.py, line 2"):
        check_network(recipe(folder, "{factory: 'mynets:small'}"))


def test_a_print_of_the_users_code_is_not_on_stdout(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError):
        check_network(recipe(folder, "{factory: 'mynets:raising'}"))
    assert capsys.readouterr().out == ""


def test_its_file_is_read_again_by_a_recipe_that_names_it(folder: Path, tmp_path: Path) -> None:
    choice = recipe(folder, "{factory: 'mynets:several', output: logits}").model
    register_factory(choice)
    network = build_model(choice.architecture, 3)
    save_network(network, tmp_path / "network.safetensors")
    image = torch.randn(2, 3, 16, 20)
    assert torch.equal(load_network(tmp_path / "network.safetensors")(image), network(image))


@pytest.mark.parametrize("file", ["mynets.py", "layers.py"])
def test_the_fingerprint_follows_the_sources(folder: Path, file: str) -> None:
    choice = ModelChoice(factory="mynets:small", folder=folder)
    first = factory_fingerprint(choice)
    (folder / "unused.py").write_text("x = 1")
    assert factory_fingerprint(choice) == first
    with (folder / file).open("a") as stream:
        stream.write("\nx = 1\n")
    assert factory_fingerprint(choice) != first


def test_recipes_of_two_folders_may_name_their_modules_alike(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "mynets.py").write_text("from torch import nn\ndef small():\n    return nn.Flatten()")
    choices = [ModelChoice(factory="mynets:small", folder=place) for place in (folder, other)]
    kinds = []
    for choice in (*choices, choices[0]):
        register_factory(choice)
        kinds.append(type(build_model("mynets:small", 3)).__name__)
    assert kinds == ["Net", "Flatten", "Net"]
    assert str(folder) not in sys.path


def test_no_module_of_a_library_is_hidden(folder: Path) -> None:
    (folder / "torch.py").write_text("")
    with pytest.raises(RecipeError, match="torch is also the name of an installed module"):
        register_factory(ModelChoice(factory="torch:small", folder=folder))
