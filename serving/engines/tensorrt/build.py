"""From an ONNX file to a TensorRT plan, on the GPU that will run it.

The network is strongly typed: the file itself states which layers compute in FP16 or INT8, and
TensorRT chooses kernels, not precisions. TensorRT 11 always does so, TensorRT 10 on request.
"""

from pathlib import Path

import tensorrt

from serving.base.errors import EngineError, EngineUnavailable
from serving.engines import cuda
from serving.engines.engine import PlanProfile
from serving.engines.tensorrt.log import Log, check_version

VERSION: str = tensorrt.__version__

_MIB = 1 << 20


def build_plan(
    onnx: Path,
    plan: Path,
    profile: PlanProfile,
    *,
    device: int = 0,
    workspace_mib: int | None = None,
    timing_cache: Path | None = None,
    build_log: Path | None = None,
) -> None:
    """Writes `plan`, which appears when it is complete.

    device: index of the GPU.
    workspace_mib: scratch memory that a layer may use; None for all of the GPU's.
    timing_cache: file of earlier kernel timings, used where it fits this GPU and TensorRT, and
        rewritten with the timings of this build.
    build_log: gets every line that TensorRT logs, also where the build fails.
    Raises EngineUnavailable with the parser's or the builder's reasons.
    """
    check_version(VERSION)
    log = Log(keep_all=True)
    try:
        cuda.use_device(device)
        content = _build(onnx, profile, workspace_mib, timing_cache, log)
    except EngineError as error:
        raise EngineUnavailable(f"{onnx}: {error}") from error
    finally:
        if build_log is not None:
            build_log.write_text("".join(f"{line}\n" for line in log.lines), encoding="utf-8")
    _write(plan, content)


def _build(
    onnx: Path, profile: PlanProfile, workspace_mib: int | None, timing_cache: Path | None, log: Log
) -> bytes:
    builder = tensorrt.Builder(log)
    typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    if network is None:
        raise EngineUnavailable(f"{onnx}: TensorRT gives no network: {log.problems()}")
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(
            f"node {e.node_name()!r} ({e.node_operator()}): {e.desc()}" for e in errors
        )
        raise EngineUnavailable(f"{onnx}: TensorRT cannot read it: {reasons or log.problems()}")
    config = builder.create_builder_config()
    if config is None:
        raise EngineUnavailable(f"{onnx}: TensorRT gives no builder config: {log.problems()}")
    # TF32 is on by default, but the FP32 variant has to compute in FP32.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if workspace_mib is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace_mib * _MIB)
    _add_profile(onnx, builder, network, config, profile)
    if timing_cache is not None:
        _attach(config, timing_cache)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise EngineUnavailable(f"{onnx}: TensorRT cannot build it: {log.problems()}")
    if timing_cache is not None:
        measured = config.get_timing_cache()
        if measured is not None:
            _write(timing_cache, bytes(measured.serialize()))
    return bytes(content)


def _add_profile(
    onnx: Path,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    profile: PlanProfile,
) -> None:
    """Sets the batch sizes that the plan can run: the first dimension of every input. Where the
    file fixes that dimension, only its size."""
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise EngineUnavailable(
                f"{onnx}: input {tensor.name!r} {list(shape)}: only the batch may vary in a plan"
            )
        sizes = (profile.smallest, profile.usual, profile.largest)
        if shape[:1] != (-1,):
            sizes = shape[:1] * 3
        shapes.set_shape(tensor.name, *((size, *shape[1:]) for size in sizes))
    if config.add_optimization_profile(shapes) < 0:
        raise EngineUnavailable(f"{onnx}: TensorRT refuses the batch sizes {profile}")


def _attach(config: tensorrt.IBuilderConfig, path: Path) -> None:
    """Reuses earlier timings, which shorten a build; those of another GPU or TensorRT are
    dropped."""
    former = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(former)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
