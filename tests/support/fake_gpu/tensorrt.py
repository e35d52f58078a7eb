"""TensorRT without a GPU: plans that ONNX Runtime runs on the CPU, behind TensorRT's rules.

What the real one answers with None or False is answered so here; what it leaves undefined (shapes
not set, addresses not bound, memory too small) fails an assertion. FAKE_TENSORRT_VERSION sets the
version, FAKE_TENSORRT_REFUSE makes a builder fail.
"""

import enum
import json
import os
import struct
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cuda.bindings import runtime

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "11.4.0")

_MAGIC = b"fake plan "
_CACHE_MAGIC = b"fake timings "


class DataType(enum.Enum):
    FLOAT = np.float32
    HALF = np.float16
    BF16 = "bf16"
    INT8 = np.int8
    INT32 = np.int32
    INT64 = np.int64
    BOOL = np.bool_
    UINT8 = np.uint8


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = 0


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        self.is_initialised = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def _use(logger: ILogger) -> ILogger:
    assert isinstance(logger, ILogger)
    assert logger.is_initialised, "ILogger.__init__ was not called"
    return logger


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return "first"

    def node_operator(self) -> str:
        return "Unknown"


class _Tensor:
    def __init__(self, info: Any) -> None:
        self.name = info.name
        self.shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else -1
            for dim in info.type.tensor_type.shape.dim
        )


class INetworkDefinition:
    def __init__(self) -> None:
        self.model: onnx.ModelProto | None = None

    @property
    def num_inputs(self) -> int:
        return len(self._model().graph.input)

    def get_input(self, index: int) -> _Tensor:
        return _Tensor(self._model().graph.input[index])

    def _model(self) -> onnx.ModelProto:
        assert self.model is not None, "the network is empty: nothing was parsed into it"
        return self.model


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []
        _use(logger).log(ILogger.INFO, "a parser is there")

    def parse_from_file(self, model: str) -> bool:
        try:
            self._network.model = onnx.load(model)
        except Exception as error:
            self._errors.append(ParserError(f"not a network: {type(error).__name__}"))
            return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IHostMemory(bytes):
    pass


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(_CACHE_MAGIC + __version__.encode())


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(
        self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]
    ) -> None:
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)), (min, opt, max)
        self.shapes[input] = [min, opt, max]


class IBuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[IOptimizationProfile] = []
        self.workspace = 0
        self._cache: ITimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> ITimingCache | None:
        return ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "timings of another device would be used"
        if cache.content and cache.content != bytes(cache.serialize()):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = _use(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED, "not strongly typed"
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        refusal = os.environ.get("FAKE_TENSORRT_REFUSE")
        if refusal:
            self._logger.log(ILogger.ERROR, refusal)
            return None
        assert network.model is not None
        assert BuilderFlag.TF32 not in config.flags
        [profile] = config.profiles
        missing = {value.name for value in network.model.graph.input} - set(profile.shapes)
        if missing:
            self._logger.log(ILogger.ERROR, f"no profile for {missing}")
            return None
        self._logger.log(ILogger.INFO, "built")
        header = json.dumps({"version": __version__, "profile": profile.shapes}).encode()
        body = network.model.SerializeToString()
        return IHostMemory(_MAGIC + struct.pack("<I", len(header)) + header + body)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = _use(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        if not serialized_engine.startswith(_MAGIC):
            self._logger.log(ILogger.ERROR, "magic tag does not match")
            return None
        start = len(_MAGIC) + 4
        (length,) = struct.unpack("<I", serialized_engine[len(_MAGIC) : start])
        header = json.loads(serialized_engine[start : start + length])
        if header["version"] != __version__:
            self._logger.log(
                ILogger.ERROR, f"expecting version {__version__}, got {header['version']}"
            )
            return None
        return ICudaEngine(serialized_engine[start + length :], header["profile"])


_TYPES = {
    "tensor(uint8)": DataType.UINT8,
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
}


class ICudaEngine:
    device_memory_size_v2 = 1 << 20

    def __init__(self, model: bytes, profile: dict[str, list[list[int]]]) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model, settings, providers=["CPUExecutionProvider"]
        )
        self.profile = profile
        # The only stream of each block of scratch memory: two at a time would mix.
        self.streams: dict[int, int] = {}
        self.arguments = {
            arg.name: (mode, arg)
            for mode, args in (
                (TensorIOMode.INPUT, self.session.get_inputs()),
                (TensorIOMode.OUTPUT, self.session.get_outputs()),
            )
            for arg in args
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self.arguments)

    def get_tensor_name(self, index: int) -> str:
        return list(self.arguments)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.arguments[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self.arguments[name][1].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self.arguments[name][1].shape
        return tuple(dim if isinstance(dim, int) else -1 for dim in shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [tuple(shape) for shape in self.profile[name]]

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> "IExecutionContext":
        return IExecutionContext(self, strategy)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self._engine = engine
        self._needs_memory = strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self._memory = 0
        # Of shapes; what was captured at another one works on memory that has moved.
        self._generation = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        # TensorRT defers work after a change of shapes; a capture would record it.
        self._is_fresh = False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._needs_memory, "it has memory of its own"
        assert size >= self._engine.device_memory_size_v2
        self._memory = runtime.device_block(memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return profile_index == 0 and stream_handle in runtime.streams

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self._engine.profile[name]
        inside = all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))
        if inside:
            self._shapes[name] = tuple(shape)
            self._is_fresh = False
            self._generation += 1
        return inside

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        rows = next(iter(self._shapes.values()))[0] if self._shapes else -1
        return tuple(rows if dim == -1 else dim for dim in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name in self._engine.arguments

    def execute_async_v3(self, stream_handle: int) -> bool:
        if set(self._addresses) != set(self._engine.arguments):
            return False
        inputs = [n for n, (mode, _) in self._engine.arguments.items() if mode.value == 1]
        if set(self._shapes) != set(inputs):
            return False
        if self._needs_memory:
            assert self._memory, "no memory was given to it"
            assert self._engine.streams.setdefault(self._memory, stream_handle) == stream_handle
        generation = self._generation
        if stream_handle in runtime.captures:
            assert self._is_fresh, "captured right after the shapes were changed"
        self._is_fresh = True
        shapes = {name: self.get_tensor_shape(name) for name in self._engine.arguments}

        captured = stream_handle in runtime.captures

        def run() -> None:
            assert not captured or generation == self._generation, "shapes changed after capture"
            if self._needs_memory:
                runtime.device_block(self._memory, self._engine.device_memory_size_v2)
            arrays = {name: self._array(name, shapes[name]) for name in shapes}
            outputs = [name for name in shapes if name not in inputs]
            results = self._engine.session.run(outputs, {n: arrays[n].copy() for n in inputs})
            for name, result in zip(outputs, results, strict=True):
                arrays[name][...] = result

        runtime.enqueue(stream_handle, run)
        return True

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        dtype = np.dtype(self._engine.get_tensor_dtype(name).value)
        size = int(np.prod(shape)) * dtype.itemsize
        runtime.device_block(self._addresses[name], size)
        block = runtime.blocks[self._addresses[name]][1]
        return np.frombuffer(block, dtype, int(np.prod(shape))).reshape(shape)
