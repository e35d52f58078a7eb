"""The settings of who may come in, and who may change the server."""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, Field, field_validator

# off: nobody. socket: who can reach the admin socket. token: also who has the token. open: all.
AdminMode = Literal["off", "socket", "token", "open"]
# repository: loads and unloads. settings: traces and the log. memory: regions of shared memory,
# their use too.
AdminGroup = Literal["repository", "settings", "memory"]
TlsClientAuth = Literal["require", "optional"]

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


class AccessConfig(BaseModel):
    """Admins, credentials of callers, policy, record, TLS."""

    admin: AdminMode = Field(
        "socket",
        description="Who may change the running server. off: nobody; socket: callers of the admin "
        "socket; token: also callers with the token; open: everybody, as in Triton.",
    )
    admin_open: str = Field(
        "",
        description="Parts that everybody may change over the ports: repository, settings, "
        "memory, separated by commas.",
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
        "policy); read again when it changes. It permits only what it names.",
    )
    audit: bool | None = Field(
        None,
        description="Record refusals and admin calls as JSON lines of the logger audit; by default "
        "with --api-keys, --jwt-issuer or --policy.",
    )
    audit_sample: float = Field(
        0.0, ge=0, le=1, description="Share of the inferring calls that the record has too."
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
        description="With --tls-client-ca. require: callers must have a certificate, except probes "
        "on the metrics port; optional: they may.",
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
        if not (self.jwt_issuer and self.jwt_audience and self.jwt_jwks):
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


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
