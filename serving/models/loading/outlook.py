"""Predicts how this machine would serve the models of a repository, without loading any."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serving.base.errors import ModelLoadError
from serving.base.metrics import EngineMetrics
from serving.engines import ENGINES, describe
from serving.models.loading.candidates import Candidate, LoadSettings
from serving.models.loading.config_completion import as_it_lies, read_config
from serving.models.loading.version import VersionLoader
from serving.repository.layout import ModelFolder
from serving.repository.manifest import Evidence, Manifest, read_manifest
from serving.repository.model_config import ModelConfig, check_against_engine

if TYPE_CHECKING:  # it brings cryptography
    from serving.repository.signing.private_copy import SignedVersions

SERVES = "serves"
TIMED = "timed at load"
FALLBACK = "where no GPU serves"
NOT_SELECTED = "not selected"
REFUSED = "refused"
BROKEN = "broken"
NOT_RUN = "not run here"


@dataclass(frozen=True)
class Prospect:
    """One variant in one engine, or a whole version or model where no more is known.

    name, version: the model; version is empty for a line about the whole model.
    state: one of the constants above. SERVES is the only candidate; the fastest of several that
        are TIMED serves.
    reason: why it would not serve; empty where it would.
    variant, engine: empty for a line about the whole version.
    manifest: the version's manifest, if it has one.
    evidence: the measurements of the variant in the engine, if there are any.
    completed: fields that config.pbtxt leaves out and the model file supplies.
    """

    name: str
    version: str
    state: str
    reason: str = ""
    variant: str = ""
    engine: str = ""
    manifest: Manifest | None = None
    evidence: Evidence | None = None
    completed: tuple[str, ...] = ()


def prospects(
    folder: ModelFolder, settings: LoadSettings, signed: "SignedVersions | None" = None
) -> Iterator[Prospect]:
    """A line for each version, variant and engine of a model, in order. Blocking.

    signed: opens versions that have to be signed.
    It reads files. It loads a file into an engine only where an incomplete config needs its tensors
    and the file itself does not name all of them.
    """
    try:
        open_version = as_it_lies if signed is None else signed.copied
        config = read_config(folder, strict=settings.strict_config, open_version=open_version)
    except ModelLoadError as error:
        yield Prospect(folder.name, "", BROKEN, str(error))
        return
    selected = config.version_policy.select(list(folder.versions))
    if not folder.versions:
        yield Prospect(folder.name, "", BROKEN, "no version folder")
    for version in folder.versions:
        try:
            manifest = read_manifest(folder.path / str(version))
        except ModelLoadError as error:
            yield Prospect(folder.name, str(version), BROKEN, str(error))
            continue
        if version not in selected:
            reason = f"the version policy selects {selected}"
            yield Prospect(folder.name, str(version), NOT_SELECTED, reason, manifest=manifest)
            continue
        if signed is None:
            yield from _of_version(folder.path, config, version, manifest, settings)
            continue
        try:
            with signed.opened(folder.path, version, config) as copy:
                found = _of_version(copy.path, config, version, manifest, settings)
                for prospect in found:
                    reason = prospect.reason.replace(str(copy.path), str(folder.path))
                    yield replace(prospect, reason=reason)
        except ModelLoadError as error:
            yield Prospect(folder.name, str(version), REFUSED, str(error), manifest=manifest)


def _of_version(
    path: Path,
    config: ModelConfig,
    version: int,
    manifest: Manifest | None,
    settings: LoadSettings,
) -> Iterator[Prospect]:
    name, number = config.name, str(version)
    try:
        loader = VersionLoader(path, config, version, settings, EngineMetrics())
        loader.labels()
    except ModelLoadError as error:
        for variant, engine, evidence in _measured(manifest) or [("", "", None)]:
            yield Prospect(
                name, number, REFUSED, str(error), variant, engine, manifest, evidence,
                config.completed,
            )  # fmt: skip
        return
    refused: dict[Candidate, str] = {}
    for candidate in loader.candidates:
        try:
            loader.admit(candidate)
            if manifest is None and candidate.file.suffix == ".onnx":
                facts = describe(candidate.file)
                check_against_engine(config, facts.inputs, facts.outputs, candidate.file)
        except ModelLoadError as error:
            refused[candidate] = str(error)
    left = [candidate for candidate in loader.candidates if candidate not in refused]
    on_gpu = any(ENGINES[candidate.engine].device == "gpu" for candidate in left)
    listed = set()
    for candidate in loader.candidates:
        listed.add((candidate.variant, candidate.engine))
        if candidate in refused:
            state = REFUSED
        elif on_gpu and ENGINES[candidate.engine].device == "cpu":
            state = FALLBACK
        else:
            state = SERVES if len(left) == 1 else TIMED
        yield Prospect(
            name, number, state, refused.get(candidate, ""), candidate.variant, candidate.engine,
            manifest, loader.evidence(candidate), config.completed,
        )  # fmt: skip
    unusable = dict(line.split(": ", 1) for line in loader.unusable)
    for variant, engine, evidence in _measured(manifest):
        if (variant, engine) not in listed:
            reason = unusable.get(engine, "settings or config.pbtxt leave it out")
            yield Prospect(name, number, NOT_RUN, reason, variant, engine, manifest, evidence)


def _measured(manifest: Manifest | None) -> list[tuple[str, str, Evidence | None]]:
    """Variant, engine and evidence of each measurement."""
    return [
        (variant.id, engine, evidence)
        for variant in (manifest.variants if manifest else ())
        for engine, evidence in variant.evidence.items()
    ]
