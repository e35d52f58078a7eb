"""Makes TensorRT plans, and has a running server switch to them.

For a server, a helper process builds each model's plans: a build takes minutes and GPU memory, and
a crash ends its process.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.base.errors import ModelLoadError, ServingError
from serving.base.files import read_file
from serving.engines import unavailable_reason
from serving.models.catalogue import Catalogue, State, VersionStatus
from serving.models.loading import local_plans
from serving.models.loading.config_completion import Open, as_it_lies, read_config
from serving.models.loading.helper import Helper, HelperFailed
from serving.models.loading.loader import Loader
from serving.models.loading.local_plans import ENGINE, PlanRequest
from serving.models.loading.selfcheck import check_files
from serving.repository.layout import scan_model
from serving.repository.manifest import MANIFEST_FILE, read_manifest
from serving.repository.places.repositories import Repositories

if TYPE_CHECKING:  # it brings cryptography
    from serving.repository.signing.private_copy import SignedVersions

log = logging.getLogger(__name__)


def build_plans(
    path: Path | str,
    cache_dir: Path | str,
    workspace_mib: int | None = None,
    *,
    force: bool = False,
    signers: str | None = None,
) -> list[dict[str, Any]]:
    """Builds the plans of the selected versions of the model in `path` for this machine's GPUs.

    Returns a line for each: model, version, variant, file, state ("built", "there already",
    "failed"), and the reason or the plan's record.

    workspace_mib: scratch memory that a layer may use; None for all of the GPU's.
    force: also builds plans that exist.
    signers: public keys in PEM form, one of which must have signed a version; None asks for none.
    Raises ModelLoadError where the model cannot be read, or TensorRT cannot run here.
    """
    folder = scan_model(Path(path))
    open_version = _opener(Path(cache_dir), signers)
    config = read_config(folder, open_version=open_version)
    lines: list[dict[str, Any]] = []
    for version in config.version_policy.select(list(folder.versions)):
        with open_version(folder, version) as below:
            manifest = read_manifest(below)
            if manifest is None:
                continue
            rows = config.max_batch_size
            lines += [
                {
                    "model": folder.name,
                    "version": str(version),
                    "variant": request.variant,
                    "file": str(request.folder / local_plans.PLAN_FILE),
                    **_build_plan(request, workspace_mib, force=force),
                }
                for request in local_plans.plan_requests(below, manifest, rows, Path(cache_dir))
            ]
    return lines


def _opener(cache_dir: Path, signers: str | None) -> Open:
    if signers is None:
        return as_it_lies
    # Only here, since they bring cryptography.
    from serving.repository.signing.keys import parse_public_keys
    from serving.repository.signing.private_copy import SignedVersions

    keys = parse_public_keys(signers)
    return SignedVersions(lambda: keys, cache_dir).copied


def _build_plan(request: PlanRequest, workspace_mib: int | None, *, force: bool) -> dict[str, Any]:
    try:
        with local_plans.building(request):
            if request.is_built and not force:
                return {"state": "there already"}
            check_files(request.onnx, request.source)
            record = local_plans.build(request, workspace_mib)
    except ModelLoadError as error:
        return {"state": "failed", "reason": error.detail}
    except OSError as error:
        where = error.filename or request.folder
        return {"state": "failed", "reason": f"{where}: {error.strerror or error}"}
    return {"state": "built", **asdict(record)}


class PlanBuilding:
    """Builds the missing plans of every version that serves, one model at a time.

    shared: other processes of the server build plans too, which this one then switches to.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        loader: Loader,
        repositories: Repositories,
        cache_dir: Path,
        signed: "SignedVersions | None" = None,
        *,
        shared: bool,
    ) -> None:
        self._signed = signed
        self._shared = shared
        self._catalogue = catalogue
        self._loader = loader
        self._repositories = repositories
        self._cache_dir = cache_dir
        # (model, version, digest of its manifest): another build may reuse a version's number.
        self._tried: set[tuple[str, str, str]] = set()
        self._changed = asyncio.Event()
        catalogue.on_change(self._changed.set)

    async def run(self) -> None:
        """Follows the catalogue until cancelled; ends at once where TensorRT cannot run here."""
        loop = asyncio.get_running_loop()
        reason = await loop.run_in_executor(None, unavailable_reason, ENGINE)
        if reason is not None:
            log.warning("plans are not built", extra={"reason": f"{ENGINE}: {reason}"})
            return
        while True:
            await self._changed.wait()
            self._changed.clear()
            lines = self._catalogue.index()
            # A load measures latencies, which a build beside it would distort.
            if any(line.state is State.LOADING for line in lines):
                continue
            ready = [line for line in lines if line.state is State.READY]
            for name in await loop.run_in_executor(None, self._untried, ready):
                await self._build(name)

    def _untried(self, ready: list[VersionStatus]) -> list[str]:
        new = {(line.name, line.version, self._digest(line)) for line in ready} - self._tried
        self._tried |= new
        return sorted({name for name, _, _ in new})

    def _digest(self, line: VersionStatus) -> str:
        """SHA-256 of a version's manifest; empty where it has none."""
        try:
            content = read_file(self._repositories.home(line.name) / line.version / MANIFEST_FILE)
        except OSError:
            return ""
        return hashlib.sha256(content).hexdigest()

    def _is_new(self, line: Mapping[str, Any]) -> bool:
        """Whether a plan was made after the version was loaded."""
        if line["state"] != "there already" or not self._shared:
            return bool(line["state"] == "built")
        served = self._catalogue.entry(line["model"]).versions.get(int(line["version"]))
        model = served.model if served is not None else None
        return model is not None and model.facts.engine_name != ENGINE

    async def _build(self, name: str) -> None:
        log.info("building plans", extra={"model": name})
        signers = None if self._signed is None else self._signed.pem
        helper = Helper(
            "plans",
            path=self._repositories.home(name),
            cache_dir=self._cache_dir,
            signers=signers,
        )
        try:
            lines = await asyncio.get_running_loop().run_in_executor(None, helper.run)
        except asyncio.CancelledError:
            helper.kill()
            raise
        except (HelperFailed, ModelLoadError) as error:
            reason = error.detail
            log.error("plans not built", extra={"model": name, "reason": reason})
            return
        failures = [f"{line['variant']}: {line['reason']}" for line in lines if "reason" in line]
        if failures:
            log.error("plans not built", extra={"model": name, "reason": "; ".join(failures)})
        if not any(self._is_new(line) for line in lines):
            log.info("no new plans", extra={"model": name})
            return
        try:
            await self._loader.reload(name)
        except ServingError as error:
            log.error("model not reloaded", extra={"model": name, "reason": str(error)})
