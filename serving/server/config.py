"""The server's settings."""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serving.base.machine.memory import memory_limit
from serving.repository.places.addresses import Addresses

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


class StartError(Exception):
    """The server cannot start; the text names the setting, port or folder."""


# Public keys alone: whoever knew a symmetric key to check tokens could make some too.
JwtAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


class JwtSettings(NamedTuple):
    """The settings of bearer tokens that are JSON Web Tokens.

    issuer, audience: that a token must have.
    jwks: URL or file of the issuer's keys.
    algorithms: that may have signed it.
    roles_claim: the claim that lists roles.
    """

    issuer: str
    audience: str
    jwks: str
    algorithms: list[str]
    roles_claim: str


class ServerConfig(BaseModel):
    """Every setting of `convserve serve`: each is a flag, a variable and a key of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_repository: Addresses = Field(
        description="Folder with one folder a model, or its URL (s3://, gs://, az://, https://); "
        "may be given several times, in one text with commas between."
    )
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
    api_keys: Path | None = Field(
        None,
        description="File of clients and their keys (convserve keys); read again when it changes. "
        "Callers without a proved name are refused then.",
    )
    jwt_issuer: str | None = Field(
        None, description="The issuer whose JSON Web Tokens are taken; as --api-keys."
    )
    jwt_audience: str | None = Field(None, description="The audience that tokens must name.")
    jwt_jwks: str | None = Field(
        None, description="URL or file of the issuer's keys (JWKS), followed in the background."
    )
    jwt_algorithms: str = Field(
        "RS256,ES256,EdDSA", description="Algorithms of tokens, separated by commas."
    )
    jwt_roles_claim: str = Field(
        "roles", description="The claim of tokens that lists roles, for the policy."
    )
    policy: Path | None = Field(
        None,
        description="YAML file of who may do what with which models, and how much (convserve "
        "policy); read again when it changes. What it does not permit is refused.",
    )
    audit: bool | None = Field(
        None,
        description="Record refusals and admin calls as JSON lines of the logger audit; by default "
        "with --api-keys, --jwt-issuer or --policy.",
    )
    audit_sample: float = Field(
        0.0, ge=0, le=1, description="Share of the calls that infer which the record has too."
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

    @field_validator("jwt_algorithms")
    @classmethod
    def _known_algorithms(cls, value: str) -> str:
        if not _listed(value) or not set(_listed(value)) <= set(get_args(JwtAlgorithm)):
            raise ValueError(f"expected some of {', '.join(get_args(JwtAlgorithm))}")
        return value

    @property
    def jwt(self) -> JwtSettings | None:
        """The settings of tokens; None where none are taken."""
        if self.jwt_issuer is None or self.jwt_audience is None or self.jwt_jwks is None:
            return None
        algorithms = _listed(self.jwt_algorithms)
        return JwtSettings(
            self.jwt_issuer, self.jwt_audience, self.jwt_jwks, algorithms, self.jwt_roles_claim
        )

    @property
    def knows_callers(self) -> bool:
        """Whether callers are told apart."""
        return bool(self.api_keys or self.jwt_issuer or self.policy)

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


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
