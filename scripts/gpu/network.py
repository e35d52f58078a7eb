"""The network that is measured where no model is given: random weights, in every precision of a
GPU."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from serving.base.machine.cpu import core_count
from serving.base.task import IMAGE_INPUT
from serving.base.tensor import Array
from serving.engines import EngineOptions, load_engine
from serving.repository.manifest import (
    EvalTransform,
    Manifest,
    Normalization,
    Provenance,
    Variant,
    write_manifest,
)

if TYPE_CHECKING:
    from training.models.export.deployed import Deployed

CLASSES = 1000
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8-s8": "int8"}
_IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_UNKNOWN = Provenance(
    recipe="none", recipe_sha256="0" * 64, run="none", dataset="none", split="none", created="now"
)


def make_model(repository: Path, network: str, side: int, max_batch_size: int) -> str:
    """Publishes a classifier with random weights in every precision of a GPU; returns its name."""
    import torch

    from training.compress.calibration import choose_calibration
    from training.compress.fp16 import to_half
    from training.compress.quantize import quantize
    from training.data.samples import ArraySamples
    from training.models import build_model
    from training.models.export.deployed import Deployed, input_specs, output_specs
    from training.models.export.to_onnx import export_onnx

    folder = repository / network / "1"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    deployed = Deployed(build_model(network, CLASSES), "classification", _IMAGENET)
    spread_answers(deployed, pictures(64, side))
    inputs = input_specs((side, side))
    outputs = output_specs("classification", CLASSES, (side, side))
    files = {v: folder / f"model.{v}.onnx" for v in PRECISIONS} | {"fp32": folder / "model.onnx"}
    export_onnx(deployed, inputs, outputs, 20, files["fp32"])
    to_half(files["fp32"], files["fp16"])
    samples = ArraySamples(pictures(16, side), np.zeros(16, np.int64))
    quantize(files["fp32"], files["int8-s8"], "s8", "minmax", choose_calibration(samples, 16, 0))
    write_manifest(
        folder,
        Manifest(
            task="classification",
            architecture=network,
            measure="top1",
            transform=EvalTransform(resize=(side, side)),
            normalization=_IMAGENET,
            classes=tuple(map(str, range(CLASSES))),
            parameters=0,
            gmacs=0.0,
            provenance=_UNKNOWN,
            variants=tuple(
                Variant.model_validate(
                    {
                        "id": variant,
                        "file": file.name,
                        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                        "precision": PRECISIONS[variant],
                        "evidence": {},
                    }
                )
                for variant, file in files.items()
            ),
        ),
    )
    # Samples for the self-check of plans, as a published model has them.
    fp32 = load_engine("onnxruntime", files["fp32"], EngineOptions(threads=core_count()))
    images = pictures(8, side)
    np.savez(folder / "samples.npz", image=images, **fp32.infer({IMAGE_INPUT: images}))
    fp32.close()
    (folder.parent / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
        f'input {{ name: "image" data_type: TYPE_UINT8 dims: [{side}, {side}, 3] }}\n'
        f'output {{ name: "logits" data_type: TYPE_FP32 dims: [{CLASSES}] }}\n'
        "dynamic_batching { }\noptimization { cuda { graphs: true } }\n"
    )
    return network


def spread_answers(deployed: "Deployed", images: Array) -> None:
    """Scales the head of a network with random weights so that pictures get different classes.

    Without that all get the same class, and two engines agree whatever they compute.
    """
    import torch
    from torch import nn
    from torch.optim.swa_utils import update_bn

    batches = torch.from_numpy(images).split(16)
    update_bn((deployed.normalized(batch) for batch in batches), deployed.network)
    deployed.eval()
    *_, head = (layer for layer in deployed.network.modules() if isinstance(layer, nn.Linear))
    with torch.inference_mode():
        logits = torch.cat([deployed(batch)[0] for batch in batches])
    scale = 1 / logits.std(dim=0).mean().clamp(min=1e-6)
    with torch.no_grad():
        head.bias.sub_(logits.mean(dim=0))
        head.bias.mul_(scale)
        head.weight.mul_(scale)


def pictures(count: int, side: int) -> Array:
    """uint8 [count, side, side, 3] with smooth colours and noise, from a fixed seed."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((side, side))) for image in coarse]
    return np.stack(large) // 2 + rng.integers(0, 128, (count, side, side, 3), np.uint8)
