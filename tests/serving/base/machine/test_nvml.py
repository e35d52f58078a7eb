"""Which GPUs there are: by the driver's library, and by what CUDA may see of them."""

import pytest
from prometheus_client import generate_latest

from serving.base.counting.totals import Totals
from serving.base.machine import nvml
from serving.engines import ENGINES, unavailable_reason
from tests.support import fake_gpu


def exposed() -> str:
    totals = Totals()
    totals.watch_gpus(nvml.usages)
    return generate_latest(totals.registry).decode()


def test_gpus_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu.in_this_process(monkeypatch):
        first, second = nvml.gpus()
    assert (first.index, second.index) == (0, 1)
    assert (first.uuid, first.name, first.architecture) == ("GPU-fake-0", "Fake H200", "sm90")
    assert str(second) == "Fake H200, 16384 MiB, driver 580.65"


@pytest.mark.parametrize(
    ("setting", "uuids"),
    [
        ("1", ["GPU-fake-1"]),
        ("GPU-fake-1,0", ["GPU-fake-1", "GPU-fake-0"]),
        ("0,7,1", ["GPU-fake-0"]),
    ],
)
def test_only_visible_gpus_count_in_the_order_given(
    setting: str, uuids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gpu.in_this_process(monkeypatch, CUDA_VISIBLE_DEVICES=setting):
        assert [device.uuid for device in nvml.gpus()] == uuids
        assert [device.index for device in nvml.gpus()] == list(range(len(uuids)))


def test_a_gpu_that_does_not_tell_its_memory_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_gpu.in_this_process(monkeypatch, FAKE_GPU_MEMORY_UNKNOWN="1"):
        assert str(nvml.gpus()[0]) == "Fake H200, unknown memory, driver 580.65"
        assert unavailable_reason("tensorrt") is None
        assert "nv_gpu_memory_total_bytes{" not in exposed()


def test_a_mig_slice_by_uuid_is_refused_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu.in_this_process(monkeypatch, CUDA_VISIBLE_DEVICES="MIG-1234"):
        reason = unavailable_reason("tensorrt")
    assert reason == "CUDA_VISIBLE_DEVICES=MIG-1234: MIG slices named by UUID are not supported"


def test_none_visible_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu.in_this_process(monkeypatch, CUDA_VISIBLE_DEVICES=""):
        assert nvml.unavailable_reason() == "no NVIDIA GPU that this process may use"


def test_gauges_have_tritons_names_and_leave_out_what_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_gpu.in_this_process(monkeypatch):
        text = exposed()
    assert 'nv_gpu_utilization{gpu_uuid="GPU-fake-0"} 0.25' in text
    assert 'nv_gpu_memory_total_bytes{gpu_uuid="GPU-fake-1"} 1.7179869184e+10' in text
    assert 'nv_gpu_memory_used_bytes{gpu_uuid="GPU-fake-1"} 1.073741824e+09' in text
    assert 'nv_gpu_power_usage{gpu_uuid="GPU-fake-0"} 70.5' in text
    assert 'nv_gpu_power_usage{gpu_uuid="GPU-fake-1"}' not in text


def test_without_a_driver_there_are_no_gauges_and_every_gpu_engine_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libnothing-of-this-name.so.1")
    nvml.gpus.cache_clear()
    nvml._library.cache_clear()
    assert "nv_gpu" not in exposed()
    for name, entry in ENGINES.items():
        reason = unavailable_reason(name)
        assert (entry.device == "gpu") == (reason is not None and "no NVIDIA driver" in reason)
