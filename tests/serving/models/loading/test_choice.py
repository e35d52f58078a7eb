"""Which variant is served: by the clock, among those that pass."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from serving.base.errors import EngineUnavailable, SelfCheckFailed
from serving.engines import Engine, EngineOptions, load_engine
from serving.engines.onnxruntime_cpu import OnnxRuntimeEngine
from serving.models.loading.candidates import Candidate, latency_key
from serving.models.loading.choice import choose, score
from tests.support.published import graph


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("choice") / "model.onnx"
    onnx.save(graph("classification"), path)
    return path


def candidates(file: Path, *variants: str) -> list[Candidate]:
    return [Candidate(variant, "onnxruntime", "fp32", file) for variant in variants]


class Clocked:
    """Loads real engines; `seconds` is what the clock would say for a batch of one, by variant.
    0 stands for a network that cannot be timed."""

    def __init__(
        self,
        seconds: dict[str, float],
        refused: tuple[str, ...] = (),
        remembered: tuple[str, ...] = (),
    ) -> None:
        self.seconds = seconds
        self.refused = refused
        self.remembered = remembered
        self.loads: list[str] = []
        self.timed: list[tuple[str, int]] = []

    def known(self, candidate: Candidate) -> dict[int, float]:
        return self.table(candidate, (1, 4, 8)) if candidate.variant in self.remembered else {}

    def load(self, candidate: Candidate) -> Engine:
        if candidate.variant in self.refused:
            raise SelfCheckFailed(f"{candidate.variant} failed its gate")
        self.loads.append(candidate.variant)
        return load_engine(candidate.engine, candidate.file, EngineOptions())

    def measure(
        self, candidate: Candidate, engine: Engine, sizes: Sequence[int]
    ) -> dict[int, float]:
        assert engine.outputs
        self.timed.extend((candidate.variant, size) for size in sizes)
        return self.table(candidate, sizes)

    def table(self, candidate: Candidate, sizes: Sequence[int]) -> dict[int, float]:
        alone = self.seconds[candidate.variant]
        return {size: alone * size for size in sizes} if alone else {}


def chosen(
    file: Path,
    seconds: dict[str, float],
    refused: tuple[str, ...] = (),
    remembered: tuple[str, ...] = (),
    timed: list[tuple[str, int]] | None = None,
) -> tuple[str, tuple[str, ...], list[str]]:
    """The variant taken, why not the others, and which were loaded, where `seconds` is what the
    clock would say, and had said of those `remembered`. Each measurement is added to `timed`."""
    loader = Clocked(seconds, refused, remembered)
    choice = choose(candidates(file, *seconds), (1, 4, 8), loader)
    choice.engine.close()
    if timed is not None:
        timed += loader.timed
    return choice.candidate.variant, choice.rejected, loader.loads


def test_the_fastest_is_taken_and_the_others_are_explained(file: Path) -> None:
    variant, rejected, _ = chosen(file, {"fp32": 0.010, "int8": 0.006, "bf16": 0.020})
    assert variant == "int8"
    assert rejected == (
        "fp32 in onnxruntime: slower here, 10.00 ms an image against 6.00 ms",
        "bf16 in onnxruntime: slower here, 20.00 ms for a batch of 1 against 6.00 ms",
    )


def test_one_that_is_faster_by_too_little_is_not_called_slower(file: Path) -> None:
    variant, rejected, _ = chosen(file, {"fp32": 0.010, "int8": 0.0098})
    assert variant == "fp32"
    assert rejected == (
        "int8 in onnxruntime: not clearly faster here, 9.80 ms an image against 10.00 ms",
    )


def test_times_have_as_many_digits_as_tell_them_apart(file: Path) -> None:
    _, rejected, _ = chosen(file, {"fp32": 0.000430, "int8": 0.000431, "bf16": 0.0004300001})
    assert rejected == (
        "int8 in onnxruntime: slower here, 0.431 ms an image against 0.430 ms",
        "bf16 in onnxruntime: not clearly faster here, 0.4300 ms an image against 0.4300 ms",
    )


def test_large_batches_are_measured_only_where_that_may_decide_something(file: Path) -> None:
    timed: list[tuple[str, int]] = []
    chosen(file, {"fp32": 0.010, "int8": 0.004, "bf16": 0.006}, timed=timed)
    first = [("fp32", 1), ("int8", 1), ("bf16", 1)]
    assert timed == [*first, ("int8", 8), ("bf16", 8), ("int8", 4)]


def test_latency_of_the_one_that_is_taken_is_whole_though_others_failed(file: Path) -> None:
    timed: list[tuple[str, int]] = []
    seconds = {"fp32": 0.010, "int8": 0.004}
    assert chosen(file, seconds, refused=("int8",), timed=timed)[0] == "fp32"
    assert timed == [("fp32", 1), ("fp32", 8), ("fp32", 4)]


def test_a_loser_is_closed_before_the_next_one_is_loaded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    close = OnnxRuntimeEngine.close
    init = OnnxRuntimeEngine.__init__

    def opened(self: OnnxRuntimeEngine, *arguments: Any) -> None:
        events.append("opened")
        init(self, *arguments)

    def closed(self: OnnxRuntimeEngine) -> None:
        events.append("closed")
        close(self)

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", opened)
    monkeypatch.setattr(OnnxRuntimeEngine, "close", closed)
    assert chosen(file, {"fp32": 0.010, "int8": 0.004, "bf16": 0.009})[0] == "int8"
    assert events == ["opened", "opened", "closed", "opened", "closed", "closed"]


def test_a_simpler_one_is_kept_when_the_gain_is_within_the_noise(file: Path) -> None:
    assert chosen(file, {"fp32": 0.0100, "int8": 0.0095})[0] == "fp32"


def test_one_that_failed_is_never_taken_however_fast(file: Path) -> None:
    variant, rejected, _ = chosen(file, {"fp32": 0.010, "int8": 0.001}, refused=("int8",))
    assert variant == "fp32"
    assert any("int8 failed its gate" in line for line in rejected)


def test_one_that_was_timed_before_is_loaded_only_where_it_wins(file: Path) -> None:
    seconds = {"fp32": 0.010, "int8": 0.004, "bf16": 0.008}
    assert chosen(file, seconds, remembered=("fp32", "int8", "bf16"))[::2] == ("int8", ["int8"])
    # One that nobody has timed is, and the others stay where they are.
    assert chosen(file, seconds, remembered=("fp32", "int8"))[::2] == ("int8", ["bf16", "int8"])


def test_the_next_takes_over_where_one_that_was_timed_before_fails_now(file: Path) -> None:
    seconds = {"fp32": 0.010, "int8": 0.004, "bf16": 0.008}
    variant, rejected, loads = chosen(file, seconds, ("int8",), tuple(seconds))
    assert (variant, loads) == ("bf16", ["bf16"])
    assert rejected[0] == "int8 in onnxruntime: int8 failed its gate"


def test_nothing_left_names_every_reason(file: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"fp32 failed its gate.*int8 failed its gate"):
        chosen(file, {"fp32": 1, "int8": 1}, refused=("fp32", "int8"))


def test_score_weighs_single_images_and_full_batches_alike() -> None:
    assert score({1: 0.004, 16: 0.016}) == pytest.approx(0.002)


def test_a_measurement_holds_for_one_artefact_engine_and_setting_only(file: Path) -> None:
    [candidate] = candidates(file, "fp32")
    keys = {
        latency_key(candidate, "aa", EngineOptions()),
        latency_key(candidate, "bb", EngineOptions()),
        latency_key(candidate, "aa", EngineOptions(threads=2)),
        latency_key(Candidate("fp32", "openvino", "fp32", file), "aa", EngineOptions()),
        latency_key(Candidate("bf16", "openvino", "bf16", file), "aa", EngineOptions()),
    }
    assert len(keys) == 5


def test_one_that_cannot_be_timed_serves_only_where_no_other_can(file: Path) -> None:
    variant, rejected, _ = chosen(file, {"fp32": 0.0, "int8": 0.004})
    assert variant == "int8"
    assert rejected == (
        "fp32 in onnxruntime: not timed here, where int8 in onnxruntime comes first",
    )
    assert chosen(file, {"fp32": 0.0, "int8": 0.004}, refused=("int8",))[0] == "fp32"


def test_of_several_that_cannot_be_timed_the_simplest_serves(file: Path) -> None:
    assert chosen(file, {"fp32": 0.0, "int8": 0.0})[0] == "fp32"
    assert chosen(file, {"fp32": 0.0, "int8": 0.0}, refused=("fp32",))[0] == "int8"


def test_reasons_are_one_short_line_and_all_of_it_in_the_detail(file: Path) -> None:
    class Talkative(Clocked):
        def load(self, candidate: Candidate) -> Engine:
            raise EngineUnavailable(f"{candidate.file}: cannot load it:\n" + "trace\n" * 100)

    with pytest.raises(EngineUnavailable) as refusal:
        choose(candidates(file, "fp32", "int8"), (1, 8), Talkative({"fp32": 1, "int8": 1}))
    text = str(refusal.value)
    assert len(text) <= 300
    assert "\n" not in text
    assert "fp32 in onnxruntime: model.onnx: cannot load it" in text
    assert "int8 in onnxruntime: model.onnx: cannot load it" in text
    assert refusal.value.detail.count("trace\n") == 200
