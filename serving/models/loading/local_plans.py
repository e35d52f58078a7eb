"""TensorRT plans that were made on this machine, from ONNX files that were published elsewhere.

They are kept under CACHE/plans, a folder each; the repository stays as it is. The self-check
decides whether a plan may be served.
"""

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serving.base.errors import EngineUnavailable
from serving.base.machine.nvml import Gpu, gpus
from serving.engines import ENGINES, PlanProfile, build_plan, engine_version, unavailable_reason
from serving.repository.manifest import Manifest, Variant

ENGINE = "tensorrt"
PLAN_FILE = "model.plan"
RECORD_FILE = "plan.json"
LOG_FILE = "build.log"
LOCK_FILE = "lock"


@dataclass(frozen=True)
class PlanRecord:
    """plan.json: a plan's source, its TensorRT, and the GPU that it was built on.

    variant: the id of the plan itself.
    source_sha256, sha256: checksums of the ONNX file and of the plan.
    profile: its batch sizes, as PlanProfile prints them.
    created: date and time in UTC, ISO 8601.
    """

    variant: str
    source_sha256: str
    sha256: str
    profile: str
    tensorrt_version: str
    compute_capability: str
    gpu: str
    driver: str
    created: str


class BuiltPlan(Variant):
    """A plan as a variant of its version, whose file lies in the cache.

    folder: its folder there.
    """

    folder: Path

    def path_in(self, folder: Path) -> Path:
        """The place of its file, whatever the version's folder."""
        return self.folder / self.file


@dataclass(frozen=True)
class PlanRequest:
    """A plan that this machine could make.

    source: the variant that it is made from.
    onnx: the file of that variant.
    profile: the batch sizes that it can run.
    gpu: a GPU of the kind that it is for.
    folder: the folder that it is kept in.
    """

    source: Variant
    onnx: Path
    profile: PlanProfile
    gpu: Gpu
    folder: Path

    @property
    def variant(self) -> str:
        """The plan's own id ("fp16-sm90")."""
        return plan_id(self.source.id, self.gpu)

    @property
    def is_built(self) -> bool:
        """Whether the plan and its record exist."""
        return all((self.folder / name).exists() for name in (RECORD_FILE, PLAN_FILE))


def plan_id(variant: str, device: Gpu) -> str:
    """The id of the plan of a variant for a GPU ("fp16-sm90"). It holds the GPU's name too where
    this machine has other GPUs of the same architecture ("fp16-sm90-nvidia-h200")."""
    return f"{variant}-{_kind(device)}"


def _kind(device: Gpu) -> str:
    alike = {gpu.name for gpu in gpus() if gpu.compute_capability == device.compute_capability}
    if alike <= {device.name}:
        return device.architecture
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    return f"{device.architecture}-{name}"


def plan_requests(
    folder: Path, manifest: Manifest, max_batch_size: int, cache_dir: Path
) -> list[PlanRequest]:
    """The plans that are worth building for a version folder, one for each kind of GPU here.

    Raises EngineUnavailable where TensorRT cannot run here.
    """
    reason = unavailable_reason(ENGINE)
    if reason is not None:
        raise EngineUnavailable(f"{ENGINE}: {reason}")
    sources = [
        variant
        for variant in manifest.variants
        if Path(variant.file).suffix == ".onnx"
        and variant.precision in ENGINES[ENGINE].precisions
        and variant.symmetric  # TensorRT runs no asymmetric INT8
    ]
    # FP32 is worth a plan only where no lower precision was published.
    smaller = [variant for variant in sources if variant.precision != "fp32"]
    profile = PlanProfile(1, max(1, max_batch_size), max(1, max_batch_size))
    version = engine_version(ENGINE)
    kinds = {(gpu.compute_capability, gpu.name): gpu for gpu in reversed(gpus())}
    published = {v.id for v in manifest.variants if v.tensorrt_version == version}
    return [
        PlanRequest(
            source=source,
            onnx=source.path_in(folder),
            profile=profile,
            gpu=device,
            folder=cache_dir / "plans" / _key(source, profile, version, device),
        )
        for device in kinds.values()
        for source in smaller or sources
        if plan_id(source.id, device) not in published
    ]


def _key(source: Variant, profile: PlanProfile, version: str, device: Gpu) -> str:
    """The name of a plan's folder: a hash of everything that a plan depends on."""
    parts = (
        source.sha256,
        source.precision,
        str(profile),
        version,
        device.compute_capability,
        device.name,
        *(f"{name} {digest}" for name, digest in sorted(source.data.items())),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@contextmanager
def building(request: PlanRequest) -> Iterator[None]:
    """Waits until no other process builds this plan. Raises OSError where the cache cannot be
    written."""
    request.folder.mkdir(parents=True, exist_ok=True)
    with (request.folder / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(request: PlanRequest, workspace_mib: int | None = None) -> PlanRecord:
    """Makes a plan and its record; the record appears last. Raises EngineUnavailable, and OSError
    where the cache cannot be written."""
    version = engine_version(ENGINE)
    request.folder.mkdir(parents=True, exist_ok=True)
    plan = request.folder / PLAN_FILE
    cache_name = f"timing-{version}-{_kind(request.gpu)}.cache"
    build_plan(
        request.onnx,
        plan,
        request.profile,
        device=request.gpu.index,
        workspace_mib=workspace_mib,
        timing_cache=request.folder.parent / cache_name,
        build_log=request.folder / LOG_FILE,
    )
    record = PlanRecord(
        variant=request.variant,
        source_sha256=request.source.sha256,
        sha256=hashlib.sha256(plan.read_bytes()).hexdigest(),
        profile=str(request.profile),
        tensorrt_version=version,
        compute_capability=request.gpu.compute_capability,
        gpu=request.gpu.name,
        driver=request.gpu.driver,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    partial = request.folder / (RECORD_FILE + ".partial")
    partial.write_text(json.dumps(asdict(record), indent=2) + "\n")
    partial.replace(request.folder / RECORD_FILE)
    return record


def built(request: PlanRequest) -> Variant | None:
    """The plan as a variant of its version, without evidence; None where it is not built."""
    try:
        record = PlanRecord(**json.loads((request.folder / RECORD_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if not request.is_built:
        return None
    return BuiltPlan(
        id=request.variant,
        folder=request.folder.resolve(),
        file=PLAN_FILE,
        sha256=record.sha256,
        precision=request.source.precision,
        evidence={},
        calibration_sha256=request.source.calibration_sha256,
        tensorrt_version=record.tensorrt_version,
        compute_capability=record.compute_capability,
        driver=record.driver,
    )


def check_fits(variant: Variant, devices: tuple[int, ...]) -> None:
    """Raises EngineUnavailable where a plan was built by another TensorRT, or for another kind of
    GPU than `devices`. TensorRT itself would only report that it cannot read the file."""
    if variant.tensorrt_version is None:
        return
    here = engine_version(ENGINE)
    wanted = f"TensorRT {variant.tensorrt_version}, compute capability {variant.compute_capability}"
    hint = "`convserve rebuild`, or `serve --build-plans`, makes one for this machine"
    if variant.tensorrt_version != here:
        raise EngineUnavailable(
            f"{variant.file}: the plan is for {wanted}; this is TensorRT {here}; {hint}"
        )
    for device in gpus():
        if device.index in devices and device.compute_capability != variant.compute_capability:
            raise EngineUnavailable(
                f"{variant.file}: the plan is for {wanted}; GPU {device.index} is {device.name}, "
                f"compute capability {device.compute_capability}; {hint}"
            )
