"""Where the settings come from: flags, then CONVSERVE_... in the environment, then a YAML file."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serving.base.errors import quoted
from serving.base.text import NotText, first_problem, read_utf8
from serving.base.yaml_text import BAD_YAML, load_yaml
from serving.server.config import ServerConfig

ENVIRONMENT_PREFIX = "CONVSERVE_"


class ConfigError(Exception):
    """A setting that cannot be used; the text has its name, its source and the expected value."""


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
        # A URL may hold a password.
        got = "" if key == "model_repository" else f", got {quoted(values[key])}"
        raise ConfigError(f"{sources[key]}: {wrong}{got}") from error
    _check_admin(config)
    _check_tls(config)
    _check_access(config)
    return config


def _check_admin(config: ServerConfig) -> None:
    """Raises ConfigError for settings of which one makes the other useless."""
    if (config.admin == "token") != (config.admin_token_file is not None):
        raise ConfigError("--admin token and --admin-token-file: neither goes without the other")
    if config.admin == "off" and (config.opened_groups or config.admin_socket):
        name = "--admin-open" if config.opened_groups else "--admin-socket"
        raise ConfigError(f"{name}: --admin off takes no admin call")
    if "memory" in config.opened_groups and config.shared_memory is None:
        raise ConfigError("--admin-open memory: needs --shared-memory PREFIX")


def _check_tls(config: ServerConfig) -> None:
    """Raises ConfigError for settings of which one lacks the other."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key: neither goes without the other")
    if config.tls_client_ca is not None and config.tls_cert is None:
        raise ConfigError("--tls-client-ca: needs --tls-cert and --tls-key")
    if config.tls_client_auth == "optional" and config.tls_client_ca is None:
        raise ConfigError("--tls-client-auth: needs --tls-client-ca")


def _check_access(config: ServerConfig) -> None:
    """Raises ConfigError for settings of callers that need others, or contradict them."""
    parts = ("jwt_issuer", "jwt_audience", "jwt_jwks")
    missing = [name for name in parts if not getattr(config, name)]
    if 0 < len(missing) < len(parts):
        flag = "--" + missing[0].replace("_", "-")
        raise ConfigError(f"{flag}: missing; issuer, audience and jwks go together")
    if config.policy is not None and (config.admin == "open" or config.opened_groups):
        name = "--admin open" if config.admin == "open" else "--admin-open"
        raise ConfigError(f"{name}: --policy says who may do that")


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = load_yaml(read_utf8(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except NotText as error:
        raise ConfigError(f"{file}: cannot be read: {error.reason}") from error
    except BAD_YAML as error:
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
