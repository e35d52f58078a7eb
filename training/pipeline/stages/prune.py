"""The stage that removes channels and blocks and fine-tunes the smaller network."""

import copy
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from serving.base.files import write_whole
from training.compress.calibration import choose_calibration
from training.compress.channel_pruner import ChannelPruner
from training.compress.channel_step import channel_step
from training.compress.depth import least_missed_first, narrow_stages
from training.compress.prune import (
    check_prune,
    find_ratio,
    gradients,
    ignored_layers,
    log_size,
    require_smaller,
)
from training.compress.sensitivity import Sensitivity, pruning_sensitivity
from training.compress.stopwatch import Stopwatch, write_variant
from training.evaluation.validation_trial import Trial
from training.fitting.build import Build, export_fp32
from training.fitting.objective import build_objective
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted, chosen_precision
from training.models.checkpoint import load_network
from training.models.export.variants import precision_of
from training.pipeline.environment import measuring_facts
from training.pipeline.fine_tuning import fine_tune, from_parent, network_results
from training.pipeline.stage import Stage
from training.recipes import Recipe
from training.recipes.compress import Prune, PruneLatency

log = logging.getLogger(__name__)

# Images whose gradients rank the channels; more rank them hardly better and take longer.
_GRADIENT_IMAGES = 256
# Images whose answers rank the blocks: the network runs over them n (n + 1) / 2 times for n blocks.
_ORDER_IMAGES = 128
# Images on which ranges are measured for a graph that is only timed: its speed does not depend on
# them.
_TIMING_IMAGES = 16
_BATCH = 32


def work(current: Build) -> Results:
    """Prunes in steps, with fine-tuning after each."""
    wanted = _section(current)
    step, said = channel_step(wanted)
    config = wanted.model_copy(update={"round_to": step})
    torch.manual_seed(current.recipe.seed)
    original = load_network(current.trained_file)
    kept = ignored_layers(original, config.ignore)
    sensitivity = _pruning_sensitivity(current, original, config, kept)
    if sensitivity is not None:
        kept |= set(sensitivity.left_alone)
    narrow = narrow_stages(original, step, kept) if wanted.round_to == "auto" else {}
    blocks = _orders(current, original, narrow)
    ratio = _pruning_ratio(current, original, config, kept, list(blocks.values()))
    network = copy.deepcopy(original)
    torch.manual_seed(current.recipe.seed)
    pruner = ChannelPruner(
        network,
        config,
        ratio,
        current.size,
        lambda n: _backward(current, n),
        kept,
        list(blocks.values()),
    )
    history: list[dict[str, float]] = []
    fitted: Fitted | None = None
    for done in range(config.steps):
        pruner.step()
        log_size(original, network, current.size)
        if done + 1 == config.steps:
            require_smaller(original, network, config, ratio)
        part = f"step-{done + 1}" if config.steps > 1 else ""
        taught = from_parent(current, network, config.train, config.distill, original)
        fitted = fine_tune(
            _counting_on(current, len(history)),
            "prune",
            network,
            config.train,
            part=part,
            objective=taught,
        )
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
        "notes": ({"round_to": said} if said else {}) | _blocks_said(blocks, pruner, step),
    }


def pruned_once(
    current: Build, network: nn.Module, orders: Mapping[str, Sequence[str]] | None
) -> nn.Module:
    """A copy as the stage prunes it, in one step and before any fine-tuning; groups that
    prune.sensitivity would protect lose channels too.

    orders: of the blocks, as block_orders gives them. None for a network that has learnt nothing:
        of its channels and blocks any go, and only their numbers tell something.
    """
    wanted = _section(current)
    step, _ = channel_step(wanted)
    config = wanted.model_copy(update={"round_to": step, "steps": 1})
    kept = ignored_layers(network, wanted.ignore)
    if orders is None:
        config = config.model_copy(update={"importance": "l2"})
        orders = narrow_stages(network, step, kept) if wanted.round_to == "auto" else {}
    pruned = copy.deepcopy(network)
    ChannelPruner(
        pruned,
        config,
        config.ratio or 0.0,
        current.size,
        lambda n: _backward(current, n),
        kept,
        list(orders.values()),
    ).step()
    return pruned


def block_orders(current: Build, network: nn.Module) -> dict[str, list[str]]:
    """The blocks of each stage that loses some, in the order in which they go."""
    wanted = _section(current)
    if wanted.round_to != "auto":
        return {}
    step, _ = channel_step(wanted)
    kept = ignored_layers(network, wanted.ignore)
    return _least_missed(current, network, narrow_stages(network, step, kept))


def _counting_on(current: Build, epochs: int) -> Build:
    """The build, with the epochs of earlier steps counted before it tells of one."""
    told = current.on_epoch
    if told is None or epochs == 0:
        return current
    return replace(current, on_epoch=lambda epoch, score: told(epochs + epoch, score))


def _orders(
    current: Build, network: nn.Module, stages: dict[str, list[str]]
) -> dict[str, list[str]]:
    """As _least_missed gives them. They stay in a file: sums that are added in another order may
    turn it after an interruption."""
    path = current.stage_folder("prune") / "blocks.json"
    if path.exists():
        found: dict[str, list[str]] = json.loads(path.read_text())
        return found
    orders = _least_missed(current, network, stages)
    write_whole(path, json.dumps(orders).encode())
    return orders


def _least_missed(
    current: Build, network: nn.Module, stages: dict[str, list[str]]
) -> dict[str, list[str]]:
    """The blocks of each stage in the order in which they go."""
    batches = list(normalized(current, network, _ORDER_IMAGES)) if stages else []
    orders = {}
    for stage, blocks in stages.items():
        log.info("prune: trying which of the %d blocks of %s are missed least", len(blocks), stage)
        orders[stage] = least_missed_first(network, blocks, [images for images, _ in batches])
    return orders


def _blocks_said(blocks: dict[str, list[str]], pruner: ChannelPruner, step: int) -> dict[str, str]:
    return {
        stage: (
            f"{len(gone)} of {len(order)} blocks are left out, as no layer in them is wider than "
            f"{step} channels: {', '.join(gone) or 'none'}"
        )
        for stage, order in blocks.items()
        for gone in [[block for block in order if block in pruner.left_out]]
    }


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
    current: Build,
    network: nn.Module,
    config: Prune,
    kept: Collection[str],
    blocks: Collection[Sequence[str]],
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
            blocks,
        )

    if config.latency is None:
        ratio = find(None)
    else:
        with _stopwatch(current, network, config.latency) as stopwatch:
            ratio = find(stopwatch)
    write_whole(path, json.dumps(ratio).encode())
    return ratio


def write_timed(current: Build, network: nn.Module, variant: str, path: Path) -> None:
    """Writes a network's file in a variant only to time it. Raises ExportError."""
    float_file = path.with_name("float.onnx")
    export_fp32(current, network, float_file)
    calibration = choose_calibration(current.data.train, _TIMING_IMAGES, current.recipe.seed)
    write_variant(float_file, path, variant, calibration)


def _stopwatch(current: Build, network: nn.Module, config: PruneLatency) -> Stopwatch:
    return Stopwatch(
        lambda candidate, path: write_timed(current, candidate, config.variant, path),
        network,
        config.engine,
        precision_of(config.variant),
        current.inputs[0],
        config.batch_size,
        config.seconds,
    )


def _backward(current: Build, network: nn.Module) -> None:
    objective = build_objective(
        network,
        _section(current).train,
        current.data.train,
        current.loss_classes,
        current.data.ignore_index,
    )
    gradients(network, objective, normalized(current, network, _GRADIENT_IMAGES))


def normalized(current: Build, network: nn.Module, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of some training images and their targets, as the network takes them."""
    samples = current.data.train
    order = np.random.default_rng(current.recipe.seed).permutation(len(samples))[:count]
    deployed = current.deployed(network)
    # No more than training takes at a time.
    batch = min(_BATCH, _section(current).train.batch_size)
    for start in range(0, len(order), batch):
        images, targets = samples.batch(order[start : start + batch])
        yield deployed.normalized(torch.from_numpy(images)), torch.from_numpy(targets)


def _section(current: Build) -> Prune:
    config = current.recipe.prune
    if config is None:
        raise ValueError("the recipe has no prune section")
    return config


def _also(recipe: Recipe) -> tuple[str, ...]:
    # The opset of the files which a latency target times.
    timed = recipe.prune is not None and recipe.prune.latency is not None
    return ("export.opset",) if timed else ()


def _facts(current: Build) -> object:
    config = _section(current)
    # A measured target holds for these engines on this processor only.
    measured = measuring_facts() if config.latency is not None else None
    step = [channel_step(config)[0]] if config.round_to == "auto" else []
    return [chosen_precision(config.train.precision), measured, *step]


STAGE = Stage(
    "prune",
    sections=("prune",),
    also=_also,
    facts=_facts,
    check=check_prune,
    work=work,
    optional=True,
)
