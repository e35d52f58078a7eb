"""What decoding a request needs of a server: models, a call that holds memory, shared memory."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from protos.gen import model_config_pb2
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.tensor import TensorSpec
from serving.base.turns import Turns
from serving.models.facts import ModelFacts
from serving.repository.model_config import from_proto
from serving.server.access.caller import Caller
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.oip import OpenInference
from serving.server.endpoints.shared_memory import SharedMemory
from serving.server.endpoints.tracing import Tracer
from tests.support.published import SIDE

# Bytes that the requests may hold together, and that a message may have.
BUDGET, MAX_MESSAGE = 64 << 20, 1 << 20


def _facts(name: str, entry: TensorSpec, result: TensorSpec, max_batch_size: int) -> ModelFacts:
    proto = model_config_pb2.ModelConfig(platform="fake", max_batch_size=max_batch_size)
    config = from_proto(proto, Path(name) / "config.pbtxt")
    return ModelFacts(config, "1", "fake", "fp32", None, (entry,), (result,))


_COLOURS = _facts(
    "colours",
    TensorSpec("image", "UINT8", (-1, SIDE, SIDE, 3)),
    TensorSpec("logits", "FP32", (-1, 3)),
    max_batch_size=8,
)
_TEXTS = _facts(
    "identity-BYTES",
    TensorSpec("in_BYTES", "BYTES", (-1,)),
    TensorSpec("out_BYTES", "BYTES", (-1,)),
    max_batch_size=0,
)


def facts_of(model: str) -> ModelFacts:
    """The model of a request; `colours` for an unknown one."""
    return _TEXTS if model == "identity-BYTES" else _COLOURS


def new_call() -> InferenceCall:
    """A call with all of the budget for itself."""
    front: Any = SimpleNamespace(take=MemoryBudget(BUDGET).take)
    return InferenceCall(front, "ModelInfer", lambda: Caller("127.0.0.1"), 0, math.inf)


def new_server() -> OpenInference:
    """Decodes for a server in whose shared memory nothing is registered."""
    everybody = Admin("open", explicit=True, memory=True)
    tracer = Tracer(FilesFolder(None), FrontMetrics().write_failures)
    return OpenInference(SharedMemory("convserve-fuzz"), tracer, everybody, MAX_MESSAGE, Turns())
