"""Where engine processes run, on machines that are read from files."""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from serving.base.machine import nvml
from serving.base.machine.nodes import node_cores, node_of_device
from serving.remote.front.seats import Seat, TooManyEngines, seats
from tests.support import fake_gpu

GIB = 1 << 30


def machine(root: Path, nodes: Mapping[str, str], devices: Mapping[str, str]) -> Path:
    """A folder like /sys."""
    for node, cores in nodes.items():
        folder = root / "devices" / "system" / "node" / node
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cores + "\n")
    for address, at in devices.items():
        folder = root / "bus" / "pci" / "devices" / address
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(at + "\n")
    return root


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr("serving.base.machine.cpu.quota_cores", lambda _: 1e9)


def gpu(index: int) -> nvml.Gpu:
    return nvml.Gpu(index, ctypes.c_void_p(), f"GPU-{index}", "H200", GIB, "9.0", "580")


@pytest.mark.usefixtures("many_cores")
def test_cores_are_those_of_each_node_that_this_process_may_use(tmp_path: Path) -> None:
    nodes = {"node0": "0-2,4", "node1": "3,5-31", "node2": "", "node3": "100-120"}
    root = machine(tmp_path, nodes, {"0000:17:00.0": "1", "0000:65:00.0": "-1"})
    assert node_cores(root) == {0: (0, 1, 2, 4), 1: (3, 5, 6, 7)}
    assert node_of_device("0000:17:00.0", root) == 1
    assert node_of_device("0000:65:00.0", root) is None
    assert node_of_device("", root) is None
    assert node_cores(tmp_path / "none") == {0: tuple(range(8))}
    (root / "devices" / "system" / "node" / "node0" / "cpulist").write_text("0-99999999999")
    assert node_cores(root) == {1: (3, 5, 6, 7)}


@pytest.mark.usefixtures("many_cores")
def test_without_gpus_there_is_one_for_each_node_with_its_cores(tmp_path: Path) -> None:
    root = machine(tmp_path, {"node0": "0-3", "node1": "4-7"}, {})
    found = seats(0, (), threads=0, memory_bytes=4 * GIB, root=root)
    assert [seat.name for seat in found] == ["engine 0", "engine 1"]
    assert [tuple(seat.cores) for seat in found] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [seat.settings for seat in found] == [{"threads": 4, "memory_mib": 2048}] * 2
    assert [(seat.environment, seat.place) for seat in found] == [({}, {})] * 2
    # Others share the cores out, node by node; where there are fewer cores, all take all.
    four = seats(4, (), threads=6, memory_bytes=4 * GIB, root=root)
    assert [tuple(seat.cores) for seat in four] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [seat.settings["threads"] for seat in four] == [1] * 4
    assert [tuple(s.cores) for s in seats(9, (), threads=0, memory_bytes=1, root=root)] == [()] * 9


@pytest.mark.usefixtures("many_cores")
def test_one_engine_process_is_told_nothing_of_its_own(tmp_path: Path) -> None:
    root = machine(tmp_path, {"node0": "0-7"}, {})
    for count, gpus in ((0, ()), (1, ()), (0, (gpu(0),)), (1, (gpu(0), gpu(1)))):
        assert seats(count, gpus, threads=0, memory_bytes=GIB, root=root) == [Seat()]


@pytest.mark.usefixtures("many_cores")
def test_each_gpu_has_one_near_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = {"0000:17:00.0": "0", "0000:65:00.0": "1"}
    root = machine(tmp_path, {"node0": "0-3", "node1": "4-7"}, at)
    with fake_gpu.in_this_process(monkeypatch):
        found = seats(0, nvml.gpus(), threads=0, memory_bytes=GIB, root=root)
    assert [tuple(seat.cores) for seat in found] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    shown = [seat.environment["CUDA_VISIBLE_DEVICES"] for seat in found]
    assert shown == ["GPU-fake-0", "GPU-fake-1"]
    places = [seat.place for seat in found]
    assert places == [{"gpus": [0], "gpu_count": 2}, {"gpus": [1], "gpu_count": 2}]


@pytest.mark.usefixtures("many_cores")
def test_fewer_than_gpus_have_several_each_and_more_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(tmp_path, {"node0": "0-7"}, {})
    monkeypatch.setattr("serving.remote.front.seats.pci_address", lambda _: "")
    four = [gpu(index) for index in range(4)]
    found = seats(3, four, threads=0, memory_bytes=GIB, root=root)
    assert [seat.place["gpus"] for seat in found] == [[0], [1], [2, 3]]
    assert found[2].environment == {"CUDA_VISIBLE_DEVICES": "GPU-2,GPU-3"}
    assert [tuple(seat.cores) for seat in found] == [(), (), ()]
    assert [seat.settings["threads"] for seat in found] == [2, 2, 2]
    with pytest.raises(TooManyEngines, match="at most 4"):
        seats(5, four, threads=0, memory_bytes=GIB, root=root)
