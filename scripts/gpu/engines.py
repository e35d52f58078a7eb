"""Measures variants in bare engines (agreement with FP32, latency, rate) and JPEG decoding."""

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.gpu.network import pictures
from scripts.gpu.rates import LEFT_OUT, Row, rate, remaining
from serving.base.errors import ServingError
from serving.base.evaluation import output_distance
from serving.base.machine import nvml as gpu
from serving.base.machine.cpu import core_count
from serving.base.task import IMAGE_INPUT, PROBABILITY_OUTPUT, answer_output
from serving.base.tensor import Array
from serving.engines import ENGINES, Engine, EngineOptions, load_engine, unavailable_reason
from serving.engines.measure import measure_latency
from serving.images import hardware_jpeg
from serving.images.decoding import use_jpeg_decoder
from serving.images.postprocess import binary_mask
from serving.images.preprocess import load_image
from serving.models.loading import local_plans
from serving.repository.manifest import EvalTransform, Manifest
from serving.repository.model_config import ModelConfig

# Share of the budget for bare engines; the servers get the rest. Larger measures more rows without
# a server.
EXAMINED_SHARE = 0.6


def examine(
    folder: Path, manifest: Manifest, config: ModelConfig, args: argparse.Namespace
) -> list[Row]:
    """A row for each variant in each engine: agreement with FP32, and latency."""
    end = time.monotonic() + EXAMINED_SHARE * remaining(args)
    images = None
    beside_gpu = gpu.unavailable_reason() is None
    rows: list[Row] = []
    expected = None
    for variant in manifest.variants:
        for name, entry in ENGINES.items():
            fits = Path(variant.file).suffix in entry.suffixes
            if not fits or variant.precision not in entry.precisions:
                continue
            row: Row = {"variant": variant.id, "engine": name, "precision": variant.precision}
            rows.append(row)
            evidence = variant.evidence.get(name)
            if evidence is not None:
                row["published_accuracy"] = str(evidence.accuracy)
            reason = unavailable_reason(name)
            if beside_gpu and entry.device == "cpu" and variant.id != "fp32":
                # Where there is a GPU, the CPU runs only the FP32 reference.
                reason = "left out beside a GPU"
            if reason is None and time.monotonic() > end:
                reason = LEFT_OUT
            if reason is not None:
                row["why_not"] = reason
                continue
            try:
                options = options_for(name, variant.precision, config, args.cache)
                local_plans.check_fits(variant, options.devices)
                engine = load_engine(name, variant.path_in(folder), options)
            except ServingError as error:
                row["why_not"] = str(error)
                continue
            try:
                if images is None:
                    images = pictures(args.images, engine.inputs[0].shape[1])
                answer = answer_output(manifest.task, [spec.name for spec in engine.outputs])
                found = answers(engine, images, answer, max(1, config.max_batch_size))
                expected = found if expected is None else expected
                equal = predicted(answer, found) == predicted(answer, expected)
                row["agreement"] = float(np.mean(equal))
                row["distance"] = output_distance(answer, expected, found)
                row["milliseconds"] = measure_latency(
                    engine, engine.inputs, args.batch_sizes, args.seconds / 20
                )
                bare = bare_rate(engine, options.instances, max(args.batch_sizes), args.seconds)
                row["bare_images_per_second"] = bare
            except ServingError as error:
                row["why_not"] = str(error)
            finally:
                engine.close()
    return rows


def options_for(engine: str, precision: str, config: ModelConfig, cache: Path) -> EngineOptions:
    """The options that the server would use: two instances on the first GPU, or all cores."""
    on_gpu = ENGINES[engine].device == "gpu"
    return EngineOptions(
        precision=precision,
        instances=2 if on_gpu else 1,
        threads=core_count(),
        max_batch_size=max(1, config.max_batch_size),
        cache_dir=cache,
        devices=(0, 0) if on_gpu else (),
        graph_batch_sizes=config.placement.graph_batch_sizes if on_gpu else (),
    )


def answers(engine: Engine, images: Array, output: str, rows: int) -> Array:
    """One output of all images, in batches of `rows`."""
    parts = [images[start : start + rows] for start in range(0, len(images), rows)]
    return np.concatenate([engine.infer({IMAGE_INPUT: part})[output] for part in parts])


def predicted(output: str, answer: Array) -> Array:
    """Classes of images or of pixels."""
    if output == PROBABILITY_OUTPUT:
        return binary_mask(answer)[0]
    return answer.argmax(axis=1) if answer.ndim == 2 else answer


def bare_rate(engine: Engine, instances: int, rows: int, seconds: float) -> float:
    """Images a second of the engine alone, one call for each instance, on its own memory."""
    spec = engine.inputs[0]
    shape = (rows, *spec.shape[1:])
    buffers = []
    for _ in range(instances):
        buffer = engine.allocate(spec, shape)
        buffer[...] = 128
        buffers.append(buffer)
    return rate(lambda i: engine.infer({spec.name: buffers[i]}), instances, rows, seconds / 2)


def decode_rates(seconds: float) -> Row:
    """JPEGs of 500x375 a second, decoded to 224x224: on one thread, on one for each core, and by
    the GPU's decoder, or the reason why it cannot be used."""
    buffer = io.BytesIO()
    large = Image.fromarray(pictures(1, 500)[0][:375])
    large.save(buffer, "JPEG", quality=90)
    data, transform = buffer.getvalue(), EvalTransform(resize=(224, 224))

    def decoded(threads: int) -> float:
        return rate(lambda _: load_image(data, transform), threads, 1, seconds / 5)

    rates: Row = {f"{threads} threads": decoded(threads) for threads in sorted({1, core_count()})}
    reason = hardware_jpeg.enable()
    rates["hardware"] = reason if reason is not None else decoded(core_count())
    use_jpeg_decoder(None)
    return rates
