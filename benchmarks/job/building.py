"""Builds the networks of a work with `convserve build`, once, and keeps the time that it took."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.job.works import Work
from serving.repository.manifest import Manifest, Variant, read_manifest
from training.pipeline.searching.space import Space
from training.recipes import load_recipe
from training.recipes.compress import Search

_RECORD = "built.json"
# Stages that the three builds of a work share.
_TRAINING = ("data", "train")
# Characters of the reason of a failed build.
_REASON = 400


class BuildFailed(Exception):
    """A build ended without a model; the message is its last line."""


@dataclass(frozen=True)
class Built:
    """A published model.

    name: in its repository.
    version: the folder of its version.
    seconds: of its build, the training included.
    """

    name: str
    version: Path
    manifest: Manifest
    seconds: float

    def variant(self, name: str) -> Variant:
        """A variant by its id."""
        return next(variant for variant in self.manifest.variants if variant.id == name)

    def file(self, name: str) -> Path:
        """The file of a variant."""
        return self.variant(name).path_in(self.version)

    def megabytes(self, name: str) -> float:
        """The size of a variant's files."""
        variant = self.variant(name)
        files = [self.file(name), *(self.version / data for data in variant.data)]
        return sum(file.stat().st_size for file in files) / 1e6


class Workshop:
    """The builds of one work, in a folder of its own for each recipe with its overrides.

    A build that was interrupted goes on, and its time with it. Folders of former recipes stay: a
    search takes hours.
    """

    def __init__(self, work: Work, folder: Path, overrides: Sequence[str]) -> None:
        self._work = work
        self._overrides = tuple(overrides)
        text = work.recipe.read_text()
        key = hashlib.sha256("\n".join([text, *overrides]).encode()).hexdigest()
        self._folder = folder / key[:8]
        self.repository = self._folder / "repository"
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def training_seconds(self) -> float:
        """Of the network in FP32."""
        return float(self._record()["seconds"].get("training", 0.0))

    def int8(self) -> Built:
        """The recipe's network and its INT8 forms. Raises BuildFailed."""
        self._step("training", "--until", "train", name=self._work.name)
        plain = ("--set", "prune=null", "--set", "search=null")
        self._step("int8", *plain, name=self._work.name)
        return self._built(self._work.name, "training", "int8")

    def searched(self) -> Built:
        """The network that --search finds, with the training of `int8`. Raises BuildFailed."""
        name = f"{self._work.name}-searched"
        recipe = load_recipe(self._work.recipe, self._overrides)
        whole = Space(recipe, recipe.search or Search()).own
        trained = self._folder / "runs" / self._work.name
        own = self._folder / "runs" / name / "search" / whole.trained / name
        for stage in _TRAINING:
            if not (own / stage).exists() and "searched" not in self._record()["done"]:
                shutil.copytree(trained / stage, own / stage)
        self._step("searched", "--search", self._work.bound, name=name)
        return self._built(name, "training", "searched")

    def _built(self, name: str, *steps: str) -> Built:
        folders = [f for f in (self.repository / name).iterdir() if f.name.isdigit()]
        version = max(folders, key=lambda folder: int(folder.name))
        manifest = read_manifest(version)
        if manifest is None:
            raise BuildFailed(f"{version} has no manifest")
        seconds = self._record()["seconds"]
        return Built(name, version, manifest, sum(seconds[step] for step in steps))

    def _step(self, step: str, *flags: str, name: str) -> None:
        record = self._record()
        if step in record["done"]:
            return
        command = [sys.executable, "-m", "convserve", "build", str(self._work.recipe)]
        command += ["--out", str(self._folder / "runs")]
        command += ["--model-repository", str(self.repository)]
        for override in (*self._overrides, f"name={name}"):
            command += ["--set", override]
        command += flags
        began = time.monotonic()
        try:
            with (self._folder / f"{step}.log").open("a") as log:
                done = subprocess.run(command, stdout=log, stderr=log, check=False)
            if done.returncode == 0:
                record["done"].append(step)
        finally:
            spent = record["seconds"].get(step, 0.0) + time.monotonic() - began
            record["seconds"][step] = spent
            self._write(record)
        if done.returncode != 0:
            lines = (self._folder / f"{step}.log").read_text().strip().splitlines()
            raise BuildFailed(f"{step}: {' '.join(lines[-1:])[:_REASON]}")

    def _record(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self._folder / _RECORD).read_text()))
        except FileNotFoundError:
            return {"seconds": {}, "done": []}

    def _write(self, record: dict[str, Any]) -> None:
        partial = self._folder / f"{_RECORD}.partial"
        partial.write_text(json.dumps(record, indent=2) + "\n")
        partial.replace(self._folder / _RECORD)
