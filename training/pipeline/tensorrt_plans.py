"""TensorRT plans of a build: makes them, and says beforehand whether that is possible."""

import logging
from pathlib import Path

from serving.base.errors import EngineUnavailable
from serving.base.machine.nvml import gpus
from serving.engines import PlanProfile, build_plan, engine_version, unavailable_reason
from training.errors import ExportError, RecipeError
from training.evaluation.verification import PlanOrigin
from training.models.export.tensorrt_rules import tensorrt_problems
from training.models.export.variants import onnx_file
from training.recipes.deliver import Export, TensorRt

log = logging.getLogger(__name__)

ENGINE = "tensorrt"
# Variants that a GPU can run as a plan.
_CANDIDATES = ("fp32", "fp16", "int8-s8")


def check_plans(config: Export) -> None:
    """Raises RecipeError where plans are asked for and cannot be made on this machine."""
    if config.tensorrt is None:
        return
    reason = unavailable_reason(ENGINE)
    if reason is not None:
        raise RecipeError(
            f"export.tensorrt: plans are made on the GPU that runs them: {reason}; leave it out, "
            "and have `convserve rebuild` make them on the machine that serves"
        )


def check_files(config: Export, folder: Path) -> None:
    """Raises ExportError where plans are asked for of a file that TensorRT will not take; says so
    where it could be asked for them later."""
    wanted = config.tensorrt.variants if config.tensorrt is not None else ()
    for variant in [name for name in config.variants if name in _CANDIDATES]:
        problems = tensorrt_problems(folder / onnx_file(variant))
        if problems and variant in wanted:
            raise ExportError(f"{variant}: TensorRT will not take it: {'; '.join(problems)}")
        if problems:
            log.warning("export: %s: TensorRT would not take it: %s", variant, problems[0])


def export_plans(config: TensorRt, max_batch_size: int, folder: Path) -> list[dict[str, str]]:
    """Makes model.ID.plan for each variant asked for, for batches of up to `max_batch_size`, with
    its build log beside it. Gives id, source variant and PlanOrigin's fields of each. Raises
    ExportError."""
    device = gpus()[0]
    profile = PlanProfile(1, config.usual_batch or max_batch_size, max_batch_size)
    plans = []
    for variant in config.variants:
        name = f"{variant}-{device.architecture}"
        log.info("export: building plan %s for %s", name, device.name)
        try:
            build_plan(
                folder / onnx_file(variant),
                folder / f"model.{name}.plan",
                profile,
                device=device.index,
                workspace_mib=config.workspace_mib,
                # Beside the stages' folders, which are emptied when they run again.
                timing_cache=folder.parent / f"timing-{device.architecture}.cache",
                build_log=folder / f"model.{name}.log",
            )
        except EngineUnavailable as error:
            raise ExportError(f"export.tensorrt: {error}") from error
        origin = PlanOrigin(
            tensorrt_version=engine_version(ENGINE),
            compute_capability=device.compute_capability,
            driver=device.driver,
        )
        plans.append({"id": name, "source": variant, **origin.model_dump()})
    return plans
