"""The files of a network's variants, with the interface that it has."""

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import onnx

from serving.base.tensor import Array
from training.compress.calibration import Method
from training.compress.fp16 import to_half
from training.compress.quantize import Quantizer
from training.errors import DoesNotFit, ExportError
from training.evaluation.verification import VariantFile
from training.models.export.variants import SCHEMES, precision_of
from training.models.files.source import prepared
from training.pipeline.adopt.items import Items, calls
from training.pipeline.adopt.mixing import Mixing
from training.pipeline.adopt.served import ServedModel

log = logging.getLogger(__name__)

# Operators that gain from 8 bits.
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class CalibrationRuns:
    """Items as the runs on which ranges are measured."""

    items: Items
    model: ServedModel

    def __len__(self) -> int:
        return len(self.items)

    def feeds(self, size: int) -> Iterator[Mapping[str, Array]]:
        """One run after another, with at most `size` rows."""
        rows = min(size, max(1, self.model.config.max_batch_size))
        return calls(self.items, range(len(self.items)), self.model, rows)

    def sha256(self) -> str:
        """Of the tensors."""
        digest = hashlib.sha256()
        for feed in self.feeds(1):
            for name, array in feed.items():
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()


def variant_file(model: ServedModel, variant: str) -> str:
    """The name of a variant's file: bf16 runs the FP32 file, the others lie beside it."""
    if variant in ("fp32", "bf16"):
        return model.file.name
    return f"{model.file.stem}.{variant}.onnx"


class Made(NamedTuple):
    """The variants of a network.

    files: FP32 first.
    mixed: a sentence on each INT8 variant, by its id, of which layers stay in floating point, or
        whose gate no mixture would pass.
    refused: the reason for each variant that the network cannot have, by its id.
    """

    files: list[VariantFile]
    mixed: dict[str, str]
    refused: dict[str, str]


def make_variants(
    model: ServedModel,
    wanted: Sequence[str],
    calibration: CalibrationRuns,
    calibrate: Method,
    mixing: Mixing,
    folder: Path,
) -> Made:
    """Writes the files of the wanted variants into `folder`."""
    as_it_is = [variant for variant in ("fp32", "bf16") if variant in wanted]
    made = [variant for variant in wanted if variant not in as_it_is]
    mixed: dict[str, str] = {}
    refused: dict[str, str] = {}
    files = [
        VariantFile(id=variant, path=model.file, precision=precision_of(variant))
        for variant in as_it_is
    ]
    if not made:
        return Made(files, mixed, refused)
    reason = model.no_precision_but_float()
    if reason:
        return Made(files, mixed, dict.fromkeys(made, reason))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        float_file = Path(scratch) / "prepared.onnx"
        try:
            onnx.save(prepared(model.file, model.graph), float_file)
        except ExportError as error:
            return Made(files, mixed, dict.fromkeys(made, _without_place(model, error)))
        writer = _Writer(model, float_file, calibration, calibrate, mixing, mixed)
        for variant in made:
            path = folder / variant_file(model, variant)
            log.info("adopt: making %s", variant)
            try:
                digest = writer.write(variant, path)
            except ExportError as error:
                refused[variant] = _without_place(model, error, float_file)
                continue
            files.append(
                VariantFile(
                    id=variant,
                    path=path,
                    precision=precision_of(variant),
                    calibration_sha256=digest,
                )
            )
    return Made(files, mixed, refused)


class _Writer:
    """Measures ranges once for all INT8 files; a network that it fails on fails for all. `mixed`
    gets the sentences on mixed precision."""

    def __init__(
        self,
        model: ServedModel,
        float_file: Path,
        runs: CalibrationRuns,
        calibrate: Method,
        mixing: Mixing,
        mixed: dict[str, str],
    ) -> None:
        self._model = model
        self._float_file = float_file
        self._runs = runs
        self._calibrate: Method = calibrate
        self._mixing = mixing
        self._mixed = mixed
        self._quantizer: Quantizer | ExportError | None = None

    def write(self, variant: str, path: Path) -> str | None:
        """Writes one file; gives the checksum of the tensors that it was calibrated with. Raises
        ExportError where the network has no such form, DoesNotFit and OSError where memory or disk
        is full."""
        try:
            if variant not in SCHEMES:
                to_half(self._float_file, path)
                return None
            quantizer = self._ranged()
            found = self._mixing.mixture(quantizer, variant)
            log.info("adopt: %s: %s", variant, found.said)
            if found.sensitivity is not None:
                self._mixed[variant] = found.said
            quantizer.write(path, SCHEMES[variant], found.float_layers)
            return self._runs.sha256()
        except (ExportError, OSError):  # a full disk is no property of the network
            raise
        except MemoryError as error:
            raise DoesNotFit(f"{self._model.file}: {variant}: memory ran out") from error
        except Exception as error:  # the quantiser and the checker raise errors of many kinds
            said = " ".join(str(error).split())[:300]
            raise ExportError(
                f"ONNX Runtime's tools cannot make it: {type(error).__name__}: {said}"
            ) from error

    def _ranged(self) -> Quantizer:
        if not any(node.op_type in _LAYERS for node in self._model.graph.graph.node):
            raise ExportError("it has no convolution or matrix product to quantise")
        if self._quantizer is None:
            try:
                self._quantizer = Quantizer(self._float_file, self._calibrate, self._runs)
            except ExportError as error:
                self._quantizer = error
        if isinstance(self._quantizer, ExportError):
            raise self._quantizer
        return self._quantizer


def _without_place(model: ServedModel, error: ExportError, *files: Path) -> str:
    """The reason without the file that it begins with."""
    text = str(error)
    for file in (model.file, *files):
        text = text.removeprefix(f"{file}: ")
    return text
