"""The server's settings: from flags, then CONVSERVE_... in the environment, then a YAML file."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serving.base.errors import quoted
from serving.base.machine.memory import memory_limit
from serving.base.text import NotText, first_problem, read_utf8

ENVIRONMENT_PREFIX = "CONVSERVE_"
# gRPC keeps times in milliseconds and sizes in bytes, both as signed 32-bit integers.
_MAX_SECONDS = 2_000_000
_MAX_MESSAGE_MIB = 2047
_MAX_CONNECTIONS = 1_000_000
_MIB = 1 << 20
# Share of the limit that calls may hold by default. The rest is for the interpreter, the models,
# and the messages that gRPC is still receiving.
_MEMORY_SHARE = 0.6

# off: nobody. socket: who can reach the admin socket. token: also who has the token. open: all.
AdminMode = Literal["off", "socket", "token", "open"]
# repository: loads and unloads. settings: traces and the log. memory: regions of shared memory,
# their use too.
AdminGroup = Literal["repository", "settings", "memory"]
TlsClientAuth = Literal["require", "optional"]


class ConfigError(Exception):
    """A setting that cannot be used; the text has its name, its source and the expected value."""


class StartError(Exception):
    """The server cannot start; the text names the setting, port or folder."""


class ServerConfig(BaseModel):
    """Every setting of `convserve serve`: each is a flag, a variable and a key of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_repository: Path = Field(description="Folder with one folder a model.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="0 takes a free port.")
    http_port: int = Field(8000, ge=0, le=65535, description="0 takes a free port.")
    metrics_port: int = Field(8002, ge=0, le=65535, description="0 takes a free port.")
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
    engine: str = Field("auto", description="An engine's name, or auto for the fastest here.")
    variant: str = Field("auto", description="A variant's id, or auto for the fastest here.")
    cache_dir: Path = Field(
        Path("~/.cache/convserve"), description="Where measured latencies and compiled models stay."
    )
    engine_process: bool | None = Field(
        None,
        description="Run engines in a process of their own, whose crash costs no call; by default "
        "where there is a GPU.",
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
    admin: AdminMode = Field(
        "socket",
        description="Who may change the running server. off: nobody; socket: who can reach the "
        "admin socket; token: also who has the token; open: everybody, as in Triton.",
    )
    admin_open: str = Field(
        "",
        description="Of repository, settings and memory those that everybody may change over the "
        "ports, separated by commas.",
    )
    admin_socket: Path | None = Field(
        None,
        description="Folder of the admin sockets grpc.sock and http.sock, for this server alone; "
        "by default one of the user's by the gRPC port.",
    )
    admin_token_file: Path | None = Field(
        None, description="File with the token of --admin token; read again when it changes."
    )
    files_dir: Path | None = Field(
        None,
        description="Folder for the trace and log files that callers name; without it there are "
        "none.",
    )
    shared_memory: str | None = Field(
        None,
        pattern=r"^/?[A-Za-z0-9._-]+$",
        description="Take tensors in shared memory objects whose names begin with this.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file with the server's certificate and its chain: every port speaks TLS "
        "then. The files of TLS are read again when they change.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the key of --tls-cert.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities of callers' certificates."
    )
    tls_client_auth: TlsClientAuth = Field(
        "require",
        description="Of --tls-client-ca. require: callers must have a certificate, but for probes "
        "on the metrics port; optional: they may.",
    )
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

    @field_validator("admin", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return "off" if value is False else value  # as YAML reads the word

    @field_validator("admin_open")
    @classmethod
    def _known_groups(cls, value: str) -> str:
        if not set(_listed(value)) <= set(get_args(AdminGroup)):
            raise ValueError(f"expected some of {', '.join(get_args(AdminGroup))}")
        return value

    @property
    def opened_groups(self) -> frozenset[str]:
        """The admin calls of `admin_open`."""
        return frozenset(_listed(self.admin_open))

    @property
    def memory_bytes(self) -> int:
        """`memory_mib` in bytes, or its default."""
        return self.memory_mib * _MIB or round(_MEMORY_SHARE * memory_limit())

    @property
    def connections_per_address(self) -> int:
        """`max_connections_per_address`, or its default."""
        return self.max_connections_per_address or max(1, self.max_connections // 2)


def load_config(
    flags: Mapping[str, Any], environment: Mapping[str, str] | None = None, file: Path | None = None
) -> ServerConfig:
    """The settings from flags, environment and file, in this order of precedence. A flag that is
    None was not given.

    Raises ConfigError naming the setting, its source and, for an unknown name, the nearest valid
    one.
    """
    environment = os.environ if environment is None else environment
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    for key, value in _read_file(file).items():
        _check_known(key, f"{file}")
        values[key], sources[key] = value, str(file)
    for key in ServerConfig.model_fields:
        variable = ENVIRONMENT_PREFIX + key.upper()
        if variable in environment:
            values[key], sources[key] = environment[variable], variable
    for key, value in flags.items():
        if value is not None:
            values[key], sources[key] = value, "--" + key.replace("_", "-")
    try:
        config = ServerConfig.model_validate(values)
    except ValidationError as error:
        place, wrong = first_problem(error)
        key = place.partition(".")[0]
        if key not in values:
            raise ConfigError(f"--{key.replace('_', '-')}: missing") from error
        raise ConfigError(f"{sources[key]}: {wrong}, got {quoted(values[key])}") from error
    _check_admin(config)
    _check_tls(config)
    return config


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_admin(config: ServerConfig) -> None:
    """Raises ConfigError for settings of which one makes the other useless."""
    if (config.admin == "token") != (config.admin_token_file is not None):
        raise ConfigError("--admin token and --admin-token-file: neither goes without the other")
    if config.admin == "off" and (config.opened_groups or config.admin_socket):
        name = "--admin-open" if config.opened_groups else "--admin-socket"
        raise ConfigError(f"{name}: --admin off takes no admin call")


def _check_tls(config: ServerConfig) -> None:
    """Raises ConfigError for settings of which one lacks the other."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key: neither goes without the other")
    if config.tls_client_ca is not None and config.tls_cert is None:
        raise ConfigError("--tls-client-ca: needs --tls-cert and --tls-key")
    if config.tls_client_auth == "optional" and config.tls_client_ca is None:
        raise ConfigError("--tls-client-auth: needs --tls-client-ca")


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(read_utf8(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except NotText as error:
        raise ConfigError(f"{file}: cannot be read: {error.reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Beside its own errors, YAML passes on those of the values that it makes.
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected settings as 'name: value' lines")
    return content


def _check_known(key: str, source: str) -> None:
    if key in ServerConfig.model_fields:
        return
    nearest = difflib.get_close_matches(str(key), ServerConfig.model_fields, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(f"{source}: unknown setting {key!r}{hint}")
