"""The gate: what passes, what fails, and what it says about too few images."""

import json
from pathlib import Path

import numpy as np
import pytest

from serving.base.evaluation import Estimate
from serving.repository.manifest import SAMPLES_FILE, Evidence, Gate, Latency
from training.data.samples import ArraySamples
from training.errors import VerificationError
from training.evaluation.gate import judge, require_pass
from training.evaluation.in_engines import PICTURES_FILE
from training.evaluation.network_answers import answers_of
from training.evaluation.verification import NetworkSize, VariantResult, Verification
from training.pipeline.pipeline import Built
from training.recipes.deliver import Verify


def estimate(value: float, low: float, high: float, n: int = 1000) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=n)


ACCURATE = estimate(0.98, 0.97, 0.99)


@pytest.mark.parametrize(
    ("drop", "passed", "said"),
    [
        (estimate(0.004, 0.001, 0.008), True, "drop 0.40 [0.10, 0.80] points, allowed 1.00"),
        (estimate(0.004, -0.002, 0.015), True, "the interval reaches 1.50"),
        (estimate(0.012, -0.003, 0.027), True, "not told from chance"),
        (estimate(0.0096, -0.01, 0.03), True, "the interval reaches 3.00"),
        (estimate(0.012, 0.002, 0.022), False, "drop 1.20 [0.20, 2.20] points"),
        (estimate(0.2, 0.15, 0.25), False, "n=1000"),
        (estimate(0.0, -0.04, 0.04, n=100), True, "too few images to prove the bound (300 needed)"),
        (estimate(0.02, -0.02, 0.06, n=100), False, "too few images"),
        (estimate(0.02, -0.02, 0.06, n=100), False, "it may have failed by chance"),
        (estimate(0.025, -0.025, 0.075, n=40), False, "one more right answer of 40 would pass it"),
        (estimate(0.0, -0.06, 0.06, n=40), True, "one more wrong answer of 40 would fail it"),
    ],
)
def test_drop_is_judged_with_its_interval(drop: Estimate, passed: bool, said: str) -> None:
    gate = judge(Verify(max_drop=0.01), "top1", ACCURATE, drop, agreeing=0.99, chance=0.1)
    assert gate.passed is passed
    assert said in gate.reason


def test_bound_of_zero_says_that_it_cannot_be_proved() -> None:
    same = estimate(0.0, -0.01, 0.01)
    gate = judge(Verify(max_drop=0.0), "top1", ACCURATE, same, agreeing=1.0, chance=0.1)
    assert gate.passed
    assert "cannot be proved" in gate.reason


def test_agreement_and_accuracy_have_bounds_of_their_own() -> None:
    small = estimate(0.0, -0.01, 0.01)
    gate = judge(Verify(min_agreement=0.995), "top1", ACCURATE, small, agreeing=0.99, chance=0.1)
    assert not gate.passed
    assert "agreement 0.9900 is under 0.995" in gate.reason
    assert "one more" not in gate.reason
    strict, few = Verify(min_agreement=0.98, max_drop=0.1), estimate(0.0, -0.06, 0.06, n=40)
    gate = judge(strict, "top1", ACCURATE, few, 0.975, 0.1)
    assert (gate.passed, "one more right answer of 40 would pass it" in gate.reason) == (
        False,
        True,
    )
    better = estimate(-0.2, -0.3, -0.1, n=40)
    assert "one more" not in judge(Verify(), "top1", ACCURATE, better, 0.8, 0.1).reason
    assert "one more" not in judge(strict, "miou", ACCURATE, few, 0.975, 0.1).reason
    gate = judge(Verify(min_accuracy=0.99), "top1", ACCURATE, small, agreeing=0.99, chance=0.1)
    assert not gate.passed
    assert "accuracy 0.9800 is under 0.99" in gate.reason


def test_a_drop_past_the_bound_is_not_called_within_it() -> None:
    gate = judge(Verify(max_drop=0.01), "top1", ACCURATE, estimate(0.012, -0.003, 0.027), 1.0, 0.1)
    assert gate.passed
    assert "within the bound" not in gate.reason


@pytest.mark.parametrize(
    ("accuracy", "settings", "passed"),
    [
        (estimate(0.5, 0.46, 0.54), {}, False),
        (estimate(0.53, 0.49, 0.57), {}, False),
        (estimate(0.3, 0.26, 0.34), {"min_accuracy": 0.2}, False),
        (estimate(float("nan"), float("nan"), float("nan")), {}, False),
        (estimate(0.5, 0.46, 0.54), {"min_accuracy": 0.0}, True),
        (estimate(0.56, 0.52, 0.6), {}, True),
    ],
)
def test_network_at_chance_does_not_pass_unless_the_recipe_says_so(
    accuracy: Estimate, settings: dict[str, float], passed: bool
) -> None:
    none = estimate(0.0, -0.001, 0.001, n=10_000)
    gate = judge(Verify(**settings), "top1", accuracy, none, agreeing=1.0, chance=0.5)
    assert gate.passed is passed
    assert ("is not above chance: one answer to all images gets 50.00 %" in gate.reason) != passed


def result(variant: str, **verdicts: bool) -> VariantResult:
    """A variant with a verdict in each of some engines."""
    return VariantResult(
        id=variant,
        file="model.onnx",
        precision="fp32" if variant == "fp32" else "int8",
        sha256="",
        size_bytes=1,
        calibration_sha256=None,
        evidence={
            engine: Evidence(
                accuracy=ACCURATE,
                drop=estimate(0.05, 0.04, 0.06),
                agreement=0.9,
                samples_tolerance=0.1,
                latency=Latency(machine="m", milliseconds={1: 1.0}),
                gate=Gate(passed=passed, reason=f"{variant} numbers"),
            )
            for engine, passed in verdicts.items()
        },
        skipped={},
    )


def verification(*variants: VariantResult) -> Verification:
    size = NetworkSize(parameters=1, macs=1)
    return Verification(
        measure="top1",
        baseline=ACCURATE,
        baseline_size=size,
        network_size=size,
        variants=variants,
        pictured=("fp32", "onnxruntime"),
        machine="m",
    )


@pytest.mark.parametrize(
    "variants",
    [
        (result("fp32", onnxruntime=True),),
        (result("fp32", onnxruntime=True), result("int8-s8", openvino=True)),
        (result("fp32", onnxruntime=False, openvino=True), result("int8-s8", openvino=True)),
        (
            result("fp32", onnxruntime=True),
            result("int8-s8", openvino=False),
            result("int8-u8", openvino=True),
        ),
        (result("fp32", onnxruntime=True), result("bf16")),
    ],
)
def test_build_goes_on_when_fp32_and_another_pass(variants: tuple[VariantResult, ...]) -> None:
    require_pass(verification(*variants))


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ((result("fp32", onnxruntime=False),), "fp32 in onnxruntime: fp32 numbers"),
        (
            (result("fp32", onnxruntime=False), result("int8-s8", openvino=True)),
            "fp32 in onnxruntime: fp32 numbers",
        ),
        (
            (result("fp32", onnxruntime=True), result("int8-s8", openvino=False)),
            "int8-s8 in openvino: int8-s8 numbers",
        ),
    ],
)
def test_failed_gate_stops_the_build_with_the_numbers(
    variants: tuple[VariantResult, ...], said: str
) -> None:
    with pytest.raises(VerificationError) as error:
        require_pass(verification(*variants))
    assert said in str(error.value)


def test_answers_of_a_mask_are_scored_image_by_image(tmp_path: Path) -> None:
    masks = np.zeros((2, 2, 2), np.uint8)
    masks[1, 0] = 1
    samples = ArraySamples(np.zeros((2, 2, 2, 3), np.uint8), masks)
    wrong = np.zeros((2, 2, 2), np.uint8)
    confidence = np.full((2, 2, 2), 255, np.uint8)
    answers = answers_of(
        lambda images: {"mask": wrong[: len(images)], "confidence": confidence[: len(images)]},
        samples,
        "segmentation",
        2,
        None,
        tmp_path,
    )
    # The first is right; in the second, background is right in half of its union, class 1 nowhere.
    assert answers.scores.tolist() == [1.0, 0.25]
    assert answers.confidences.tolist() == [1.0, 1.0]
    assert answers.confusion.tolist() == [[6, 0], [2, 0]]


@pytest.mark.parametrize("built", ["digits_built", "shapes_built"])
def test_every_variant_is_measured_in_every_engine(
    built: str, request: pytest.FixtureRequest
) -> None:
    run: Built = request.getfixturevalue(built)
    done = json.loads((run.folder / "verify" / "done.json").read_text())
    found = Verification.model_validate(done["results"]["verification"])
    assert found.variants[0].id == "fp32"
    for variant in found.variants:
        assert set(variant.evidence) == {"onnxruntime", "openvino"}
        for evidence in variant.evidence.values():
            assert evidence.accuracy.n == done["results"]["images"]
            assert evidence.drop.low <= evidence.drop.value <= evidence.drop.high
            assert min(evidence.latency.milliseconds.values()) > 0
            assert 0 < evidence.samples_tolerance < 1
    with np.load(run.folder / "verify" / PICTURES_FILE) as pictures:
        assert len(pictures["images"]) == len(pictures["predictions"])
        assert pictures["scores"][0] == pictures["scores"].min()
    with np.load(run.folder / "verify" / SAMPLES_FILE) as samples:
        assert samples["image"].dtype == np.uint8
