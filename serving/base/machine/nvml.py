"""The NVIDIA GPUs of this machine, from the driver's own library (NVML).

The library comes with every driver and is read through ctypes: no wheel is needed, and a machine
without a driver has no GPU.
"""

import ctypes
import functools
import os
from dataclasses import dataclass, replace
from typing import Any

LIBRARY = "libnvidia-ml.so.1"

# CUDA orders GPUs by speed, NVML by bus: an index must mean the same GPU to both.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

_TEXT_BYTES = 96


class GpuUnavailable(Exception):
    """There is no GPU, or the driver does not answer; the text says which."""


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use.

    index: its number in CUDA, and in config.pbtxt.
    handle: NVML's own reference to it.
    uuid, name, driver: as NVML reports them.
    memory_bytes: its total memory; None where it does not tell.
    compute_capability: such as "9.0".
    """

    index: int
    handle: ctypes.c_void_p
    uuid: str
    name: str
    memory_bytes: int | None
    compute_capability: str
    driver: str

    @property
    def architecture(self) -> str:
        """The suffix of the names of its plans ("sm90")."""
        return "sm" + self.compute_capability.replace(".", "")

    def __str__(self) -> str:
        memory = "unknown memory" if self.memory_bytes is None else f"{self.memory_bytes >> 20} MiB"
        return f"{self.name}, {memory}, driver {self.driver}"


@dataclass(frozen=True)
class GpuUsage:
    """The load of a GPU. A field is None where it does not tell (a MIG slice, a virtual GPU).

    utilization: fraction of the driver's last sample period in which kernels ran.
    """

    uuid: str
    utilization: float | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    power_watts: float | None


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Pci(ctypes.Structure):
    _fields_ = (
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("device_id", ctypes.c_uint),
        ("subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in CUDA's order. Raises GpuUnavailable."""
    nvml = _library()
    driver = _text(nvml.nvmlSystemGetDriverVersion)
    count = ctypes.c_uint()
    _check(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)), "nvmlDeviceGetCount")
    found = [_describe(nvml, position, driver) for position in range(count.value)]
    visible = _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not visible:
        raise GpuUnavailable("no NVIDIA GPU that this process may use")
    return visible


def unavailable_reason() -> str | None:
    """Why no GPU can be used here; None where one can."""
    try:
        gpus()
    except GpuUnavailable as reason:
        return str(reason)
    return None


def usages() -> list[GpuUsage]:
    """The load of each GPU; empty where there is none, or its driver has gone away."""
    try:
        return [_usage(_library(), gpu) for gpu in gpus()]
    except GpuUnavailable:
        return []


def pci_address(gpu: Gpu) -> str:
    """Its address as sysfs spells it ("0000:65:00.0"); empty where the driver does not tell."""
    pci = _Pci()
    if _library().nvmlDeviceGetPciInfo_v3(gpu.handle, ctypes.byref(pci)) != 0:
        return ""
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _usage(nvml: ctypes.CDLL, gpu: Gpu) -> GpuUsage:
    rates, memory, milliwatts = _Utilization(), _Memory(), ctypes.c_uint()
    told = {
        "rates": nvml.nvmlDeviceGetUtilizationRates(gpu.handle, ctypes.byref(rates)),
        "memory": nvml.nvmlDeviceGetMemoryInfo(gpu.handle, ctypes.byref(memory)),
        "power": nvml.nvmlDeviceGetPowerUsage(gpu.handle, ctypes.byref(milliwatts)),
    }
    return GpuUsage(
        uuid=gpu.uuid,
        utilization=rates.gpu / 100 if told["rates"] == 0 else None,
        memory_total_bytes=gpu.memory_bytes,
        memory_used_bytes=memory.used if told["memory"] == 0 else None,
        power_watts=milliwatts.value / 1e3 if told["power"] == 0 else None,
    )


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise GpuUnavailable(f"no NVIDIA driver here ({LIBRARY} is not there)") from error
    _check(nvml.nvmlInit_v2(), "nvmlInit")
    return nvml


def _check(status: int, call: str) -> None:
    if status != 0:
        raise GpuUnavailable(f"the NVIDIA driver does not answer: {call} gave {status}")


def _text(function: Any, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    _check(function(*arguments, buffer, _TEXT_BYTES), function.__name__)
    return buffer.value.decode()


def _describe(nvml: ctypes.CDLL, position: int, driver: str) -> Gpu:
    handle, memory = ctypes.c_void_p(), _Memory()
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(
        nvml.nvmlDeviceGetHandleByIndex_v2(position, ctypes.byref(handle)),
        "nvmlDeviceGetHandleByIndex",
    )
    # A slice or a virtual GPU that does not tell its memory runs engines all the same.
    tells_memory = nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
    _check(
        nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)),
        "nvmlDeviceGetCudaComputeCapability",
    )
    return Gpu(
        index=position,
        handle=handle,
        uuid=_text(nvml.nvmlDeviceGetUUID, handle),
        name=_text(nvml.nvmlDeviceGetName, handle),
        memory_bytes=memory.total if tells_memory else None,
        compute_capability=f"{major.value}.{minor.value}",
        driver=driver,
    )


def _visible(found: list[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that the variable names, numbered anew from 0 up to the first that is not there, as
    CUDA does. Entries are numbers or beginnings of UUIDs. Raises GpuUnavailable for slices."""
    if setting is None:
        return tuple(found)
    if setting.strip().startswith("MIG-"):
        raise GpuUnavailable(
            f"CUDA_VISIBLE_DEVICES={setting}: MIG slices named by UUID are not supported"
        )
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in setting.split(",")):
        match = [gpu for gpu in found if _is_named(gpu, entry)]
        if not match:
            break
        chosen.append(match[0])
    return tuple(replace(gpu, index=index) for index, gpu in enumerate(chosen))


def _is_named(gpu: Gpu, entry: str) -> bool:
    if entry.isdecimal():
        return gpu.index == int(entry)
    return bool(entry) and gpu.uuid.startswith(entry)
