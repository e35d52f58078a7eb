"""What this machine's GPUs can run of a version that was built and verified elsewhere.

A version comes with ONNX files, verified on the machine that built it. Here an engine on a GPU may
run the same file, or a plan that TensorRT made of it. Neither was on the test split: what vouches
for them is the file's own gate, passed in the engine that it was verified in, and that the answers
to the published samples, given here, are within the tolerance that was published with them.

Plans that were made here are kept under CACHE/plans, a folder each; the repository stays as it is.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serving.base.errors import EngineUnavailable
from serving.base.machine.nvml import Gpu, gpus
from serving.engines import ENGINES, PlanProfile, build_plan, engine_version, unavailable_reason
from serving.repository.manifest import SAMPLES_FILE, Evidence, Manifest, Variant

ENGINE = "tensorrt"
PLAN_FILE = "model.plan"
RECORD_FILE = "plan.json"
LOG_FILE = "build.log"

# TensorRT takes no asymmetric INT8; FP32 is worth a plan only where nothing smaller was published.
_ASYMMETRIC = "-u8"


@dataclass(frozen=True)
class PlanRecord:
    """plan.json: what a plan was made of, by what and for what."""

    variant: str
    source_sha256: str
    sha256: str
    profile: str
    tensorrt_version: str
    compute_capability: str
    gpu: str
    driver: str
    created: str


@dataclass(frozen=True)
class PlanRequest:
    """A plan that this machine could make: of which variant, from which file, into which folder."""

    source: Variant
    onnx: Path
    profile: PlanProfile
    gpu: Gpu
    folder: Path

    @property
    def variant(self) -> str:
        """The plan's own id ("fp16-sm90"; see plan_id)."""
        return plan_id(self.source.id, self.gpu)

    @property
    def is_built(self) -> bool:
        """Whether it is there already."""
        return all((self.folder / name).exists() for name in (RECORD_FILE, PLAN_FILE))


def plan_id(variant: str, device: Gpu) -> str:
    """The id of the variant that is another one's plan for a GPU: by its architecture, and by its
    name too where this machine has other GPUs of that ("fp16-sm90-nvidia-h200")."""
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
    """The plans worth having of a version folder on this machine's GPUs, one for each kind of them.

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
        and not variant.id.endswith(_ASYMMETRIC)
    ]
    smaller = [variant for variant in sources if variant.precision != "fp32"]
    profile = PlanProfile(1, max(1, max_batch_size), max(1, max_batch_size))
    version = engine_version(ENGINE)
    kinds = {(gpu.compute_capability, gpu.name): gpu for gpu in reversed(gpus())}
    published = {v.id for v in manifest.variants if v.tensorrt_version == version}
    return [
        PlanRequest(
            source=source,
            onnx=folder / source.file,
            profile=profile,
            gpu=device,
            folder=cache_dir / "plans" / _key(source, profile, version, device),
        )
        for device in kinds.values()
        for source in smaller or sources
        if plan_id(source.id, device) not in published
    ]


def _key(source: Variant, profile: PlanProfile, version: str, device: Gpu) -> str:
    """Everything that a plan is tied to: another of any of these is another plan."""
    parts = (
        source.sha256,
        source.precision,
        str(profile),
        version,
        device.compute_capability,
        device.name,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


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


def with_local(
    folder: Path, manifest: Manifest, max_batch_size: int, cache_dir: Path | None
) -> Manifest:
    """The manifest as it holds on this machine: with the plans that were made here as variants, and
    evidence for engines on GPUs that the builder of the version did not have.

    As it is where there is no GPU, and where no samples were published to check answers against.
    """
    if not _gpu_engines() or not (folder / SAMPLES_FILE).exists():
        return manifest
    variants = [_vouched_for(variant) for variant in manifest.variants]
    if cache_dir is not None and ENGINE in _gpu_engines():
        for request in plan_requests(folder, manifest, max_batch_size, cache_dir):
            built = _built(request)
            if built is not None:
                # In place of one of that name that was published for another TensorRT.
                variants = [*(v for v in variants if v.id != built.id), built]
    return manifest.model_copy(update={"variants": tuple(variants)})


def _gpu_engines() -> list[str]:
    return [
        name
        for name, entry in ENGINES.items()
        if entry.device == "gpu" and unavailable_reason(name) is None
    ]


def _vouched_for(variant: Variant) -> Variant:
    evidence = _evidence(variant)
    added = {
        engine: evidence
        for engine in _gpu_engines()
        if evidence is not None
        and engine not in variant.evidence
        and Path(variant.file).suffix in ENGINES[engine].suffixes
    }
    return variant.model_copy(update={"evidence": {**variant.evidence, **added}})


def _evidence(variant: Variant) -> Evidence | None:
    """What was measured of the same file elsewhere: where it passed, or else where it did not."""
    found = sorted(variant.evidence.items(), key=lambda item: not item[1].gate.passed)
    if not found:
        return None
    engine, evidence = found[0]
    reason = f"as verified in {engine}: {evidence.gate.reason}"
    gate = evidence.gate.model_copy(update={"reason": reason})
    return evidence.model_copy(update={"gate": gate})


def _built(request: PlanRequest) -> Variant | None:
    try:
        record = PlanRecord(**json.loads((request.folder / RECORD_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if not request.is_built:
        return None
    evidence = _evidence(request.source)
    return Variant(
        id=request.variant,
        # Joined to the version's folder, an absolute path stays what it is.
        file=str((request.folder / PLAN_FILE).resolve()),
        sha256=record.sha256,
        precision=request.source.precision,
        evidence={ENGINE: evidence} if evidence is not None else {},
        calibration_sha256=request.source.calibration_sha256,
        tensorrt_version=record.tensorrt_version,
        compute_capability=record.compute_capability,
        driver=record.driver,
    )


def check_fits(variant: Variant, devices: tuple[int, ...]) -> None:
    """Raises EngineUnavailable where a plan belongs to another TensorRT or another kind of GPU than
    those that it shall run on; TensorRT itself would only say that it cannot read it."""
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
