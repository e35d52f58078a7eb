"""From facts and answers to a recipe: size, network and epochs fit the data and the time."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.support.terminal import CTRL_C, CTRL_D, Terminal
from tests.training.pipeline.initial import folders
from tests.training.pipeline.initial.conftest import Init
from training.cli.init import app
from training.errors import DataError, RecipeError
from training.models import build_model
from training.pipeline.initial.first_recipe import Given, first_recipe
from training.pipeline.pipeline import build
from training.recipes import load_recipe


def test_two_thousand_small_images_train_within_the_minutes_given(init: Init) -> None:
    """The size and the network follow the images, not ImageNet."""
    folders.class_folders(Path("things"), per_class=20, size=(100, 100))
    for folder in Path("things").iterdir():
        first = folder / "00.png"
        for index in range(20, 667):
            os.link(first, folder / f"{index:03}.png")
    outcome, recipe = init("things")
    assert max(recipe.transform.size) <= 100
    assert sum(outcome.seconds.values()) <= 600
    assert recipe.train.epochs >= 20


def test_more_minutes_train_longer(init: Init) -> None:
    folders.class_folders(Path("things"), per_class=30)
    short, recipe = init("things", minutes=1.2)
    longer, patient = init("things", minutes=3.0, force=True)
    assert patient.train.epochs > recipe.train.epochs
    assert sum(short.seconds.values()) < sum(longer.seconds.values()) <= 180


def test_few_images_that_are_shown_often_change_more(init: Init) -> None:
    folders.class_folders(Path("things"), per_class=8, size=(32, 32))
    _, recipe = init("things", minutes=10)
    assert recipe.train.epochs >= 100
    assert recipe.augment.policy is not None
    assert recipe.train.mixup_alpha is None
    _, recipe = init("things", minutes=10, mirrors=False, force=True)
    # The policy turns images, and a 6 becomes a 9.
    assert recipe.augment.policy is None
    assert recipe.train.mixup_alpha


def test_images_of_one_colour_in_the_large_are_seen_small(init: Init) -> None:
    """Enlarged images show no more than before."""
    for name, colour in folders.COLOURS.items():
        Path("things", name).mkdir(parents=True)
        for index in range(8):
            small = folders.picture(colour, index, (24, 24))
            small.resize((300, 300)).save(f"things/{name}/{index}.png")
    _, recipe = init("things")
    assert max(recipe.transform.size) <= 64


@pytest.mark.parametrize(
    ("names", "mirrored"),
    [(("3", "7"), False), (("left", "right"), False), (("cat", "dog"), True)],
)
def test_digits_and_sides_are_not_mirrored(
    names: tuple[str, ...], mirrored: bool, init: Init
) -> None:
    for name, colour in zip(names, (folders.RED, folders.BLUE), strict=True):
        Path("things", name).mkdir(parents=True)
        for index in range(8):
            folders.picture(colour, index).save(f"things/{name}/{index}.png")
    _, recipe = init("things")
    assert recipe.augment.flip is mirrored
    _, recipe = init("things", mirrors=not mirrored, force=True)
    assert recipe.augment.flip is not mirrored


def test_size_and_network_that_are_given_are_taken(init: Init) -> None:
    folders.class_folders(Path("things"))
    _, recipe = init("things", size=(48, 64), network="mobilenet_v2")
    assert recipe.transform.size == (48, 64)
    assert recipe.model.name == "mobilenet_v2"
    with pytest.raises(RecipeError, match="unknown model 'mobilnet_v2'; did you mean mobilenet_v2"):
        init("things", network="mobilnet_v2", force=True)


def test_a_recipe_is_not_written_over(init: Init) -> None:
    folders.class_folders(Path("things"))
    init("things")
    Path("things.yaml").write_text("mine")
    with pytest.raises(RecipeError, match=r"things\.yaml exists already; --force writes over it"):
        init("things")
    assert Path("things.yaml").read_text() == "mine"
    init("things", force=True)
    assert Path("things.yaml").read_text() != "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["things", "things.yaml"]


def test_every_section_is_explained(init: Init) -> None:
    folders.class_folders(Path("things"))
    init("things")
    lines = Path("things.yaml").read_text().splitlines()
    sections = [n for n, line in enumerate(lines) if line[:1].isalpha() and line[:-1] != "train"]
    unexplained = [
        lines[n]
        for n in sections
        if not lines[n - 1].startswith("#") and not lines[n + 1].lstrip().startswith("#")
    ]
    assert unexplained == []
    assert "convserve build" in lines[0] + lines[1]


def test_names_of_classes_do_not_leave_their_comment(init: Init) -> None:
    folders.masks(Path("things"))
    Path("things/classes.txt").write_text("background\ntrain: {epochs: 9}\u2028x: 1\n")
    _, recipe = init("things")
    assert recipe.train.epochs != 9


def test_weights_beside_the_images_are_begun_with(init: Init) -> None:
    folders.class_folders(Path("things"))
    torch.save(build_model("resnet20_cifar", 7).state_dict(), "things/resnet20_cifar_mine.pth")
    outcome, recipe = init("things")
    assert recipe.model.name == "resnet20_cifar"
    assert recipe.model.pretrained == "things/resnet20_cifar_mine.pth"
    assert "begins with weights" in outcome.chosen["network"]
    assert recipe.normalization.mean == (0.485, 0.456, 0.406)


def test_a_network_in_a_file_is_published_without_training(init: Init) -> None:
    folders.class_folders(Path("things"))
    folders.network(Path("things/net.onnx"))
    # A program of torch.export is not read, as that may run code of its author.
    Path("things/other.pt2").write_bytes(b"no program")
    outcome, recipe = init("things")
    assert any("things/other.pt2 is left alone" in line for line in outcome.assumed)
    assert (recipe.train, recipe.model.onnx) == (None, Path("things/net.onnx"))
    assert recipe.transform.size == (32, 32)
    assert any("--network NAME to train one" in line for line in outcome.assumed)
    _, recipe = init("things", network="resnet20_cifar", force=True)
    assert recipe.model.name == "resnet20_cifar"


def test_a_network_without_images_is_told_what_it_needs(init: Init) -> None:
    folders.network(Path("things/net.onnx"))
    with pytest.raises(DataError, match=r"convserve init IMAGES --network things/net\.onnx"):
        init("things")


def test_models_of_a_triton_repository_are_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders.triton(Path("repository"))
    outcome = first_recipe(Given(Path("repository"), quiet=True, download=False))
    assert outcome.recipe == ""
    assert outcome.commands == ("convserve adopt repository/colours --data FOLDER",)


def test_a_person_is_asked_at_most_four_questions(tmp_path: Path) -> None:
    """Over a real terminal, with answers as people type them."""
    folders.people(tmp_path / "things")
    with on_terminal(tmp_path) as terminal:
        for asked, typed in (
            (r"embedding \[", "perhaps\n"),
            ("expected classification", "e\n"),
            ("mirrored", "\n"),
            ("minutes", "0.1\n"),
        ):
            terminal.expect(asked)
            terminal.type(typed)
        assert terminal.end() == 0, terminal.text
    recipe = load_recipe(tmp_path / "things.yaml")
    assert recipe.task == "embedding"
    assert "Recipe: things.yaml" in terminal.text


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_a_person_who_leaves_at_a_question_gets_one_line(key: str, tmp_path: Path) -> None:
    folders.class_folders(tmp_path / "things")
    with on_terminal(tmp_path) as terminal:
        terminal.expect(r"yes or no \[yes\]: ")
        terminal.interrupt(key, r"\nconvserve init: interrupted; no recipe was written\n$")
        assert terminal.end() == 130, terminal.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["things"]


def on_terminal(folder: Path) -> Terminal:
    command = [sys.executable, "-m", "convserve", "init", "things", "--no-download"]
    root = str(Path(__file__).parents[4])
    return Terminal([*command, "--size", "32"], folder, {"PYTHONPATH": root, "COLUMNS": "200"})


def test_the_written_recipe_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps that are really measured; the build only shorter."""
    monkeypatch.chdir(tmp_path)
    folders.class_folders(Path("things"))
    given = Given(Path("things"), size=(32, 32), minutes=0.1, quiet=True, download=False)
    outcome = first_recipe(given)
    shorter = {
        "train.epochs": 2,
        "export.variants": "[fp32, int8-u8]",
        "verify.latency_seconds": 0.02,
        "verify.batch_sizes": "[1]",
        "verify.max_drop": 1.0,
        "verify.min_accuracy": 0,
    }
    recipe = load_recipe(Path(outcome.recipe), [f"{key}={value}" for key, value in shorter.items()])
    built = build(recipe, Path("runs"), Path("repository"))
    assert built.version == 1
    assert Path("repository/things/1/manifest.json").is_file()


def test_masks_of_a_foreground_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders.masks(Path("things"))
    given = Given(Path("things"), size=(32, 32), minutes=0.1, quiet=True, download=False)
    recipe = load_recipe(Path(first_recipe(given).recipe), ["train.epochs=1"])
    built = build(recipe, Path("runs"), Path("repository"), "train")
    assert built.ran == ("data", "train")


def test_the_command_prints_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders.class_folders(Path("things"))
    options = ["--json", "--no-download", "--size", "32", "--minutes", "0.1", "--mirrors", "no"]
    done = CliRunner().invoke(app, ["init", "things", *options])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["recipe"] == "things.yaml"
    assert load_recipe(Path("things.yaml")).augment.flip is False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "tea"], "expected one of classification, segmentation, embedding"),
        (["--size", "0x3"], "expected HEIGHTxWIDTH"),
        (["--size", "100000"], "each from 1 to 9999; got '100000'"),
        (["--mirrors", "perhaps"], "expected one of yes, no"),
    ],
)
def test_wrong_options_are_status_2(options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["init", ".", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("folder", "said"), [("nowhere", "nowhere: no such folder"), ("file", "file: is not a folder")]
)
def test_a_folder_that_is_not_there_is_refused_at_once(
    folder: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = CliRunner().invoke(app, ["init", folder], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert said in done.output
    assert "loading torch" not in done.output
