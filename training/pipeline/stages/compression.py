"""The stages that make a trained network smaller: what each asks of the modules that know how."""

import copy
import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.compress.calibration import choose_calibration
from training.compress.fp16 import to_half
from training.compress.int8 import Candidate
from training.compress.prune import ChannelPruner, find_ratio, gradients, ignored_layers, log_size
from training.compress.qat import fake_quantized
from training.compress.quantize import quantize
from training.compress.sensitivity import Sensitivity, pruning_sensitivity
from training.compress.stopwatch import Stopwatch
from training.evaluation.validation_trial import Trial
from training.fitting.build import NETWORK_FILE, Build, export_fp32, fine_tune, network_results
from training.fitting.objective import build_objective
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted
from training.models.checkpoint import load_network, save_network
from training.models.export.deployed import input_specs
from training.models.export.variants import SCHEMES, precision_of
from training.recipes.compress import Prune, PruneLatency, Qat

log = logging.getLogger(__name__)

# Gradients of so many images tell channels apart well enough, and ranges of so few give a graph
# that is as fast as the real one.
_GRADIENT_IMAGES = 256
_TIMING_IMAGES = 16
_BATCH = 32


def prune_work(current: Build) -> Results:
    """Prunes in steps, with fine-tuning after each."""
    config = current.recipe.prune
    if config is None:
        raise ValueError("the recipe has no prune section")
    torch.manual_seed(current.recipe.seed)
    original = load_network(current.trained_file)
    kept = ignored_layers(original, config.ignore)
    sensitivity = _pruning_sensitivity(current, original, config, kept)
    if sensitivity is not None:
        kept |= set(sensitivity.left_alone)
    ratio = _pruning_ratio(current, original, config, kept)
    network = copy.deepcopy(original)
    torch.manual_seed(current.recipe.seed)
    pruner = ChannelPruner(
        network, config, ratio, current.size, lambda n: _backward(current, n), kept
    )
    history: list[dict[str, float]] = []
    fitted: Fitted | None = None
    for step in range(config.steps):
        pruner.step()
        log_size(original, network, current.size)
        part = f"step-{step + 1}" if config.steps > 1 else ""
        fitted = fine_tune(current, "prune", network, config.train, part=part)
        for row in fitted.history:
            history.append({**row, "epoch": len(history) + 1})
    if fitted is None:
        raise ValueError("prune.steps must be at least 1")
    results = network_results(current, "prune", Fitted(network, history, fitted.precision))
    macs = current.done[current.trained_stage].results["macs"]
    return {
        **results,
        "ratio": ratio,
        # The weights that are kept are of these epochs.
        "last_step_epochs": len(fitted.history),
        "macs_removed": 1 - results["macs"] / macs,
        "sensitivity": [sensitivity.as_json()] if sensitivity is not None else [],
    }


def measures_latency(current: Build) -> bool:
    """Whether what pruning removes depends on the machine."""
    return current.recipe.prune is not None and current.recipe.prune.latency is not None


def _pruning_sensitivity(
    current: Build, network: nn.Module, config: Prune, kept: Collection[str]
) -> Sensitivity | None:
    if config.sensitivity is None:
        return None
    trial = Trial(current, config.sensitivity.images)
    return pruning_sensitivity(
        network, config, current.size, lambda n: _backward(current, n), trial, kept
    )


def _pruning_ratio(
    current: Build, network: nn.Module, config: Prune, kept: Collection[str]
) -> float:
    """The ratio that reaches the target. It stays in a file: a measured one would come out
    differently after an interruption, and the checkpoints fit one structure only."""
    path = current.stage_folder("prune") / "ratio.json"
    if path.exists():
        return float(json.loads(path.read_text()))

    def find(stopwatch: Stopwatch | None) -> float:
        return find_ratio(
            network,
            config,
            current.size,
            lambda n: _backward(current, n),
            kept,
            stopwatch.speedup if stopwatch is not None else lambda n: 1.0,
        )

    if config.latency is None:
        ratio = find(None)
    else:
        with _stopwatch(current, network, config.latency) as stopwatch:
            ratio = find(stopwatch)
    path.write_text(json.dumps(ratio))
    return ratio


def _stopwatch(current: Build, network: nn.Module, config: PruneLatency) -> Stopwatch:
    scheme = SCHEMES.get(config.variant)
    calibration = choose_calibration(current.data.train, _TIMING_IMAGES, current.recipe.seed)

    def write(candidate: nn.Module, path: Path) -> None:
        float_file = path.with_name("float.onnx")
        export_fp32(current, candidate, float_file)
        if scheme is not None:
            quantize(float_file, path, scheme, "minmax", calibration)
        elif config.variant == "fp16":
            to_half(float_file, path)
        else:
            float_file.rename(path)

    return Stopwatch(
        write,
        network,
        config.engine,
        precision_of(config.variant),
        input_specs(current.size)[0],
        config.batch_size,
        config.seconds,
    )


def _backward(current: Build, network: nn.Module) -> None:
    samples = current.data.train
    order = np.random.default_rng(current.recipe.seed).permutation(len(samples))[:_GRADIENT_IMAGES]
    deployed = current.deployed(network)
    objective = build_objective(
        network,
        current.recipe.train,
        samples,
        current.told_apart,
        current.data.ignore_index,
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(order), _BATCH):
            images, targets = samples.batch(order[start : start + _BATCH])
            yield deployed.normalized(torch.from_numpy(images)), torch.from_numpy(targets)

    gradients(network, objective, batches())


def quantize_work(current: Build) -> Results:
    """Quantises the FP32 file once for each INT8 variant. Where the gate would fail, fine-tunes
    with rounding first, if the recipe asks for it, and leaves layers in floating point last."""
    config = current.recipe.quantize
    if config is None:
        raise ValueError("the recipe has no quantize section")
    calibration = choose_calibration(
        current.data.train, config.calibration_images, current.recipe.seed
    )
    candidate = Candidate(
        current, config, calibration, load_network(current.network_file), "ptq", "ptq"
    )
    said: dict[str, str] = {}
    history: list[dict[str, float]] = []
    if config.qat is not None and (config.qat.when == "always" or not candidate.passes()):
        candidate, history, said["fine-tuning"] = _fine_tuned(current, config.qat, candidate)
        save_network(candidate.network, current.stage_folder("quantize") / NETWORK_FILE)
    written = candidate.write(current.stage_folder("quantize"))
    return {
        "variants": list(written),
        "calibration_sha256": calibration.sha256,
        "calibration_images": len(calibration),
        "history": history,
        "notes": said | {variant: found.said for variant, found in written.items()},
        "sensitivity": [
            found.sensitivity.as_json()
            for found in written.values()
            if found.sensitivity is not None
        ],
    }


def _fine_tuned(
    current: Build, config: Qat, plain: Candidate
) -> tuple[Candidate, list[dict[str, float]], str]:
    """The best of three on validation images: the network as it is, fine-tuned in FP32 and
    fine-tuned with rounding, each quantised; ties go to the simpler. Tells the curves of the last
    and the numbers of all."""
    tuned, aware = copy.deepcopy(plain.network), copy.deepcopy(plain.network)
    fine_tune(current, "quantize", tuned, config.train, part="fp32")
    with fake_quantized(aware):
        fitted = fine_tune(current, "quantize", aware, config.train, part="qat")
    candidates = [
        plain,
        plain.of(tuned, "fp32", "ptq after fine-tuning in FP32"),
        plain.of(aware.eval(), "qat", "quantisation-aware fine-tuning"),
    ]
    best = max(candidates, key=lambda candidate: candidate.accuracy())
    said = "; ".join(candidate.told() for candidate in candidates)
    return best, fitted.history, f"{said}; kept: {best.name}"
