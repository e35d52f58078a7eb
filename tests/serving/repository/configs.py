"""A typical config.pbtxt, and configs as a test writes and reads them."""

from pathlib import Path

from google.protobuf import text_format

from protos.gen import model_config_pb2 as pb
from serving.base.tensor import TensorSpec
from serving.repository.model_config import (
    ModelConfig,
    from_proto,
)

IMAGE = TensorSpec("image", "UINT8", (-1, 32, 32, 3))
LOGITS = TensorSpec("logits", "FP32", (-1, 10))

TYPICAL = """
name: "digits"
platform: "onnxruntime_onnx"
max_batch_size: 32
input { name: "image" data_type: TYPE_UINT8 format: FORMAT_NONE dims: [ 32, 32, 3 ] }
output {
  name: "logits"
  data_type: TYPE_FP32
  dims: [ 10 ]
  label_filename: "labels.txt"
}
dynamic_batching {
  preferred_batch_size: [ 16, 8 ]
  max_queue_delay_microseconds: 2500
}
instance_group [ { count: 2 kind: KIND_CPU } ]
version_policy { latest { num_versions: 3 } }
parameters { key: "task" value { string_value: "classification" } }
"""


def written(folder: Path, text: str) -> Path:
    model = folder / "digits"
    model.mkdir()
    (model / "config.pbtxt").write_text(text)
    return model


def parsed(text: str) -> ModelConfig:
    proto = pb.ModelConfig()
    text_format.Parse(text, proto)
    return from_proto(proto, Path("digits/config.pbtxt"))
