"""The server's settings."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.base.machine.memory import memory_limit
from serving.repository.places.addresses import Addresses
from serving.server.access_config import AccessConfig

# gRPC keeps times in milliseconds and sizes in bytes, both as signed 32-bit integers.
_MAX_SECONDS = 2_000_000
_MAX_MESSAGE_MIB = 2047
_MAX_CONNECTIONS = 1_000_000
_MIB = 1 << 20
# Share of the limit that calls may hold by default. The rest is for the interpreter, the models,
# and the messages that gRPC is still receiving.
_MEMORY_SHARE = 0.6


# Those of serving.engines.ENGINES, which a front does not import.
EngineChoice = Literal[
    "auto", "onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"
]


class StartError(Exception):
    """The server cannot start; the text names the setting, port or folder."""


class _Served(BaseModel):
    """What is served, where, and by what."""

    model_repository: Addresses = Field(
        description="Folder with one folder a model, or its URL (s3://, gs://, az://, https://); "
        "may be given several times, in one text with commas between."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Port of gRPC; 0 takes a free one.")
    http_port: int = Field(
        8000, ge=0, le=65535, description="Port of REST and health; 0 takes a free one."
    )
    metrics_port: int = Field(
        8002, ge=0, le=65535, description="Port of metrics and probes; 0 takes a free one."
    )
    wire: Literal["auto", "native", "grpcio"] = Field(
        "auto", description="The library that carries gRPC calls; auto takes native where it runs."
    )
    model_control: Literal["none", "explicit", "poll"] = Field(
        "none",
        description="none: the models at start; explicit: load calls; poll: follow.",
    )
    poll_seconds: float = Field(
        5.0, gt=0, le=_MAX_SECONDS, description="Between two looks at the repository."
    )
    repository_cache_mib: int = Field(
        20_480,
        gt=0,
        description="Disk that the versions out of URLs may take in --cache-dir, in MiB.",
    )
    repository_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long a store may take for an answer of at most 8 MiB.",
    )
    engine: EngineChoice = Field(
        "auto", description="The engine that serves; auto takes the fastest here."
    )
    variant: str = Field("auto", description="A variant's id, or auto for the fastest here.")
    cache_dir: Path = Field(
        Path("~/.cache/convserve"), description="Where measured latencies and compiled models stay."
    )
    engine_process: bool | None = Field(
        None,
        description="Run engines in a process of their own, whose crash costs no call; by default "
        "where there is a GPU.",
    )
    engine_processes: int = Field(
        0,
        ge=0,
        le=64,
        description="How many there are, with --engine-process; 0 takes one for each GPU, or "
        "where there is none for each NUMA node.",
    )
    build_plans: bool = Field(
        False, description="Make TensorRT plans for this GPU in the background, and switch to them."
    )
    hardware_decode: bool = Field(
        False, description="Decode JPEGs on the GPU, where nvImageCodec is there and agrees."
    )
    drain_seconds: float = Field(
        30.0,
        ge=0,
        le=_MAX_SECONDS,
        description="How long accepted calls may take to finish after SIGTERM.",
    )
    allow_ungated: bool = Field(False, description="Also serve models without a passed gate.")
    require_signature: Path | None = Field(
        None,
        description="File or folder of Ed25519 public keys (PEM); read again when it changes. Only "
        "versions that one of them has signed are served (convserve sign).",
    )


# Its fields come after those of its bases, the last of which is the first.
class ServerConfig(AccessConfig, _Served):
    """Every setting of `convserve serve`: each is a flag, a variable and a key of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strict_config: bool = Field(
        False,
        description="Refuse a model whose config.pbtxt is missing or leaves out its tensors, "
        "instead of completing it from the model file.",
    )
    strict_readiness: bool = Field(False, description="Ready only when every model serves.")
    max_connection_age_seconds: float = Field(
        0.0,
        ge=0,
        le=_MAX_SECONDS,
        description="Callers are told to connect anew after this, so that they find added servers; "
        "0 never.",
    )
    max_connections: int = Field(
        1024,
        gt=0,
        le=_MAX_CONNECTIONS,
        description="Connections to each API port; fewer where the limit of open files is low.",
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        le=_MAX_CONNECTIONS,
        description="Connections of one address to an API port; 0 takes half of max_connections.",
    )
    grpc_max_streams: int = Field(
        256, gt=0, le=_MAX_CONNECTIONS, description="Calls of one gRPC connection at a time."
    )
    grpc_receive_seconds: float = Field(
        30.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long the message of a gRPC call may take to arrive; streams may wait.",
    )
    grpc_send_seconds: float = Field(
        60.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long a gRPC caller may leave an answer unread.",
    )
    grpc_idle_seconds: float = Field(
        900.0,
        ge=0,
        le=_MAX_SECONDS,
        description="gRPC connections without a call are closed after this; 0 never.",
    )
    http_hosts: str = Field(
        "",
        description="Names by which callers reach the REST port, with commas between: a.example, "
        "*.b.example; * any. Addresses, localhost and this machine's name need no entry.",
    )
    console: bool = Field(
        True,
        description="Show the console, a page for people, at / of the REST port. Its files hold no "
        "data: it calls the API with the identity and the rights of its reader.",
    )
    http_head_seconds: float = Field(
        10.0, gt=0, le=_MAX_SECONDS, description="How long the head of a REST request may take."
    )
    http_idle_seconds: float = Field(
        75.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long a REST connection may wait for its next request.",
    )
    http_transfer_seconds: float = Field(
        30.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long a REST body may take to arrive, and an answer to be read, beside a "
        "second for every 64 KiB.",
    )
    http_stall_seconds: float = Field(
        10.0,
        gt=0,
        le=_MAX_SECONDS,
        description="How long a REST caller may send nothing of a body, or read nothing of an "
        "answer.",
    )
    rest_timeout_seconds: float = Field(
        60.0,
        ge=0,
        le=_MAX_SECONDS,
        description="How long a REST call that infers may take once its body is there; 0 for ever.",
    )
    otel: bool = Field(
        False,
        description="Send traces and metrics over OTLP, as the OTEL_ variables of the environment "
        "say; needs convserve[otel].",
    )
    slow_request_ms: float = Field(
        0.0, ge=0, description="Log calls that take longer; 0 logs none."
    )
    threads: int = Field(0, ge=0, description="CPU threads for engines; 0 takes every core.")
    max_image_pixels: int = Field(64_000_000, gt=0, description="Largest image that is decoded.")
    max_message_mib: int = Field(
        32, gt=0, le=_MAX_MESSAGE_MIB, description="Largest message, in MiB."
    )
    max_json_mib: int = Field(
        8, gt=0, le=_MAX_MESSAGE_MIB, description="Largest JSON of a REST body, in MiB."
    )
    memory_mib: int = Field(
        0,
        ge=0,
        description="Memory that all calls together may hold, in MiB; 0 takes 60 % of the "
        "container's or machine's limit.",
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_mib` in bytes, or its default."""
        return self.memory_mib * _MIB or round(_MEMORY_SHARE * memory_limit())

    @property
    def connections_per_address(self) -> int:
        """`max_connections_per_address`, or its default."""
        return self.max_connections_per_address or max(1, self.max_connections // 2)
