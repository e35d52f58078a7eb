"""The stage that writes the files of all variants, and checks the network's answers."""

from serving.engines import engine_version
from training.compress.fp16 import to_half
from training.evaluation.network_answers import images_at_once
from training.fitting.build import Build, export_fp32
from training.fitting.stage_folder import Results
from training.models.export.deployed import output_specs
from training.models.export.to_onnx import check_answers, check_interface
from training.models.export.variants import FP32_FILE, onnx_file
from training.pipeline.environment import gpu_facts
from training.pipeline.stage import Stage
from training.pipeline.tensorrt_plans import ENGINE, check_files, check_plans, export_plans
from training.recipes import Recipe

# Images on which the FP32 file is held against torch.
_CHECKED_IMAGES = 16


def work(current: Build) -> Results:
    folder = current.stage_folder("export")
    quantized = current.done.get("quantize")
    if quantized is None:
        export_fp32(current, current.network(current.network_file), folder / FP32_FILE)
    else:
        # The very graph that was quantised, so that all variants are one network.
        for name in (FP32_FILE, *map(onnx_file, quantized.results["variants"])):
            (folder / name).write_bytes((current.stage_folder("quantize") / name).read_bytes())
    inputs = current.inputs
    outputs = output_specs(current.recipe.task, current.channels, current.size)
    if "fp16" in current.recipe.export.variants:
        to_half(folder / FP32_FILE, folder / onnx_file("fp16"))
    files = sorted(folder.glob("*.onnx"))
    for file in files:
        check_interface(file, inputs, outputs)
    check_files(current.recipe.export, folder)
    plans = []
    if current.recipe.export.tensorrt is not None:
        largest = current.recipe.publish.max_batch_size
        plans = export_plans(current.recipe.export.tensorrt, largest, folder)
    count = min(_CHECKED_IMAGES, images_at_once(current.size), len(current.data.test))
    images, _ = current.data.test.batch(range(count))
    deployed = current.served(current.network(current.exported_file))
    check_answers(folder / FP32_FILE, deployed, outputs, images)
    return {
        "files": [file.name for file in files],
        "checked_images": count,
        "plans": plans,
    }


def _also(recipe: Recipe) -> tuple[str, ...]:
    # Plans are made for batches of up to that size.
    return ("publish.max_batch_size",) if recipe.export.tensorrt is not None else ()


def _facts(current: Build) -> object:
    # A plan is tied to the GPU, its driver and the version of TensorRT.
    plans = current.recipe.export.tensorrt is not None
    return [gpu_facts(), engine_version(ENGINE)] if plans else None


STAGE = Stage(
    "export",
    sections=("export",),
    also=_also,
    facts=_facts,
    check=lambda recipe: check_plans(recipe.export),
    work=work,
)
