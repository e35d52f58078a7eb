"""What a run says of the software that it ran on."""

import tomllib
from pathlib import Path

from training.pipeline.environment import PACKAGES, environment

# They draw, show and fetch; no result depends on them.
WITHOUT_EFFECT = {"fsspec", "jinja2", "tensorboard"}


def test_every_package_that_decides_results_is_named_with_its_version() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    wanted = {
        requirement.split(">")[0].split("[")[0]
        for requirement in project["optional-dependencies"]["train"]
    }
    images = {"numpy", "opencv-python-headless", "pillow", "simplejpeg"}
    assert (wanted - WITHOUT_EFFECT) | images == set(PACKAGES)
    assert set(environment()["packages"]) == set(PACKAGES)  # type: ignore[call-overload]
