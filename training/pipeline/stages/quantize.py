"""The stage that makes the INT8 files, and fine-tunes with rounding where they would fail."""

from torch import nn

from training.compress.calibration import choose_calibration
from training.compress.int8 import Candidate
from training.compress.qat import fake_quantized
from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted, chosen_precision
from training.models import deployable
from training.models.checkpoint import NETWORK_FILE, load_network, save_network
from training.pipeline.environment import measuring_facts
from training.pipeline.fine_tuning import fine_tune, from_parent
from training.pipeline.stage import Stage
from training.recipes.compress import Qat, Quantize


def work(current: Build) -> Results:
    """Quantises the FP32 file once for each INT8 variant. Where the gate would fail, fine-tunes
    with rounding first, if the recipe asks for it, and leaves layers in floating point last."""
    config = _section(current)
    calibration = choose_calibration(
        current.data.train, config.calibration_images, current.recipe.seed
    )
    candidate = Candidate(
        current, config, calibration, current.network(current.network_file), "ptq", "ptq"
    )
    said: dict[str, str] = {}
    history: list[dict[str, float]] = []
    if config.qat is not None and (config.qat.when == "always" or not candidate.passes()):
        candidate, history, said["fine-tuning"] = _fine_tuned(current, config.qat, candidate)
        assert isinstance(candidate.network, nn.Module)  # a recipe refuses it for files
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
    and the numbers of all. Parallel branches are merged first: what is rounded is what is served.
    """
    tuned, aware, before = (deployable(load_network(current.network_file)) for _ in range(3))

    def fit(network: nn.Module, part: str) -> Fitted:
        objective = from_parent(current, network, config.train, config.distill, before)
        return fine_tune(current, "quantize", network, config.train, part=part, objective=objective)

    fit(tuned, "fp32")
    with fake_quantized(aware):
        fitted = fit(aware, "qat")
    candidates = [
        plain,
        plain.of(tuned, "fp32", "ptq after fine-tuning in FP32"),
        plain.of(aware.eval(), "qat", "quantisation-aware fine-tuning"),
    ]
    best = max(candidates, key=lambda candidate: candidate.accuracy())
    said = "; ".join(candidate.told() for candidate in candidates)
    return best, fitted.history, f"{said}; kept: {best.name}"


def _section(current: Build) -> Quantize:
    config = current.recipe.quantize
    if config is None:
        raise ValueError("the recipe has no quantize section")
    return config


def _facts(current: Build) -> object:
    qat = _section(current).qat
    # Files are judged by the answers of an engine, which depend on the processor in INT8.
    return [chosen_precision(qat.train.precision) if qat is not None else None, measuring_facts()]


STAGE = Stage(
    "quantize",
    # Mixed precision heeds the gate.
    sections=(
        "quantize",
        "export.variants",
        "export.opset",
        "verify.max_drop",
        "verify.min_agreement",
        "verify.min_accuracy",
    ),
    facts=_facts,
    work=work,
    optional=True,
)
