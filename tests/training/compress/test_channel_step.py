"""The step of channels comes from the time that engines take for layers of several widths."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.compress import channel_step as module
from training.compress.channel_step import Curve, channel_step, curve
from training.recipes.compress import Prune

WIDTHS = (8, 16, 24, 32, 48, 64)


def config(**changes: object) -> Prune:
    train = {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 1}}
    return Prune.model_validate({"ratio": 0.5, "train": train, **changes})


def made(milliseconds: Callable[[int], float], engine: str = "onnxruntime") -> Curve:
    return Curve(engine, "int8-u8", {width: milliseconds(width) for width in WIDTHS})


def in_steps_of(step: int) -> Callable[[int], float]:
    """A kernel that computes so many channels at a time, of inputs and of outputs."""
    return lambda width: float((-(-width // step) * step) ** 2)


@pytest.mark.parametrize(
    ("milliseconds", "step"),
    [
        (in_steps_of(8), 8),
        (in_steps_of(16), 16),
        (in_steps_of(32), 32),
        # Eight channels take longer than sixteen.
        (lambda width: 400.0 if width == 8 else float(width**2), 16),
        # Bound by something else than arithmetic, which still goes down with each channel.
        (lambda width: float(width**1.5), 8),
        # No step saves anything, so the channels that stay should be worth their time.
        (lambda width: 1.0, 32),
    ],
)
def test_step_is_the_smallest_that_saves_time_at_every_width(
    milliseconds: Callable[[int], float], step: int
) -> None:
    assert made(milliseconds).step() == step


def test_step_is_felt_by_every_engine_and_the_reason_holds_the_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = {"onnxruntime": 16, "openvino": 8}
    monkeypatch.setattr(
        module, "curve", lambda engine, variant: made(in_steps_of(steps[engine]), engine)
    )
    step, said = channel_step(config())
    assert step == 16
    assert said.startswith("multiples of 16, ")
    assert "onnxruntime int8-u8 (8: 256.00, 16: 256.00, 24: 1024.00" in said
    assert "openvino int8-u8 (8: 64.00, 16: 256.00" in said


def test_latency_target_asks_its_own_engine_and_a_number_asks_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    def recorded(engine: str, variant: str) -> Curve:
        asked.append((engine, variant))
        return made(in_steps_of(16))

    monkeypatch.setattr(module, "curve", recorded)
    assert channel_step(config(round_to=4)) == (4, "")
    assert asked == []
    latency = {"engine": "onnxruntime", "variant": "fp32", "speedup": 1.5}
    assert channel_step(config(ratio=None, latency=latency))[0] == 16
    assert asked == [("onnxruntime", "fp32")]


@pytest.mark.parametrize(
    ("engine", "variant"), [("onnxruntime", "int8-u8"), ("openvino", "int8-s8")]
)
def test_curve_is_measured_once_for_a_machine(
    engine: str, variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"_CHANNELS": (8, 16), "_SIDE": 4, "_TURNS": 2, "_SECONDS": 0.001}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "_CACHE", tmp_path / "none" / "yet")
    first = curve.__wrapped__(engine, variant)
    assert list(first.milliseconds) == [8, 16]
    assert min(first.milliseconds.values()) > 0

    def never(engine: str, variant: str) -> dict[int, float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "_measured", never)
    assert curve.__wrapped__(engine, variant) == first
    monkeypatch.setattr(module, "machine", lambda: "another")
    with pytest.raises(AssertionError, match="measured again"):
        curve.__wrapped__(engine, variant)


@pytest.mark.parametrize("broken", ["{", "[]", '{"8": 1}', '{"8": 1, "16": -1}', '{"8": "x"}'])
def test_broken_cache_is_measured_anew(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    times = {8: 1.0, 16: 4.0}
    monkeypatch.setattr(module, "_CHANNELS", tuple(times))
    monkeypatch.setattr(module, "_CACHE", tmp_path)
    monkeypatch.setattr(module, "_measured", lambda engine, variant: times)
    curve.__wrapped__("onnxruntime", "int8-u8")
    [file] = tmp_path.iterdir()
    file.write_text(broken)
    assert curve.__wrapped__("onnxruntime", "int8-u8").milliseconds == times
    assert json.loads(file.read_text()) == {"8": 0.001, "16": 0.004}


def test_cache_that_cannot_be_written_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(module, "_CACHE", tmp_path / "file")
    linear = {width: float(width) for width in WIDTHS}
    monkeypatch.setattr(module, "_measured", lambda engine, variant: linear)
    assert curve.__wrapped__("onnxruntime", "int8-u8").step() == 8
