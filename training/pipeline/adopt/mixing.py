"""Tries INT8 files on the items on which their ranges were measured: those that judge what is
published stay unseen."""

from collections.abc import Collection
from pathlib import Path

from serving.base.errors import EngineError
from serving.engines import Engine
from serving.repository.manifest import Gate
from training.compress.mixed_precision import Mixture, choose_float_layers
from training.compress.quantize import Quantizer
from training.compress.sensitivity import Sensitivity, int8_sensitivity
from training.evaluation.in_engines import open_engine
from training.evaluation.verification import VariantFile
from training.models.export.to_onnx import CHECK_ENGINE
from training.models.export.variants import SCHEMES
from training.pipeline.adopt.against_fp32 import AgainstFp32
from training.pipeline.adopt.judging import Yardstick
from training.pipeline.adopt.served import ServedModel


class Mixing:
    """How many layers of an INT8 variant stay in floating point.

    reference: an engine that runs the FP32 file.
    yardstick: the gate, on the items of the calibration.
    distances: of the same items from FP32, which tell layers apart that change no answer.
    items: their number.
    bound: largest share of the layers in floating point; 0 forbids it.
    folder: gets files that are tried.
    """

    where = "on the items of the calibration"

    def __init__(
        self,
        reference: Engine,
        model: ServedModel,
        yardstick: Yardstick,
        distances: AgainstFp32,
        items: int,
        bound: float,
        folder: Path,
    ) -> None:
        self._reference = reference
        self._model = model
        self._yardstick = yardstick
        self._distances = distances
        self._items = items
        self._bound = bound
        self._tried = folder / "tried.onnx"
        self._quantizer: Quantizer | None = None
        self._gates: dict[tuple[str, tuple[str, ...]], Gate] = {}

    def mixture(self, quantizer: Quantizer, variant: str) -> Mixture:
        """The choice for a variant; all layers in INT8 where the engine that tries it cannot run
        it."""
        self._quantizer = quantizer
        try:
            return choose_float_layers(variant, self, self._bound)
        except EngineError as error:
            return Mixture((), f"all layers in INT8: not tried: {error}", None)
        finally:
            self._tried.unlink(missing_ok=True)

    def gate(self, variant: str, float_layers: Collection[str]) -> Gate:
        """As Trials has it."""
        key = (variant, tuple(float_layers))
        if key not in self._gates:
            self._written.write(self._tried, SCHEMES[variant], float_layers)
            engine = self._opened(self._tried)
            try:
                self._gates[key] = self._yardstick.judge(engine).gate
            finally:
                engine.close()
        return self._gates[key]

    def fp32_passes(self) -> bool:
        """As Trials has it."""
        return self._yardstick.judge(self._reference).gate.passed

    def sensitivity(self, variant: str) -> Sensitivity:
        """As Trials has it."""

        def nearness(file: Path) -> float:
            engine = self._opened(file)
            try:
                return 1 - self._distances.mean(engine)
            finally:
                engine.close()

        return int8_sensitivity(self._written, variant, nearness, self._items)

    @property
    def _written(self) -> Quantizer:
        assert self._quantizer is not None, "set by mixture"
        return self._quantizer

    def _opened(self, file: Path) -> Engine:
        """The engine that tries a file. Raises EngineError."""
        tried = VariantFile(id=file.stem, path=file, precision="int8")
        engine = open_engine(CHECK_ENGINE, tried, max(1, self._model.config.max_batch_size))
        if isinstance(engine, str):
            raise EngineError(engine)
        return engine
