"""The server's settings: three sources, one order, and messages that name the source."""

import math
import os
import re
from pathlib import Path
from typing import get_args

import pytest

from serving.engines import ENGINES
from serving.server.config import EngineChoice, ServerConfig
from serving.server.config_sources import ConfigError, load_config

REPOSITORY = {"model_repository": "models"}

JWT = {"jwt_issuer": "i", "jwt_audience": "a", "jwt_jwks": "https://issuer.example/keys"}


def file_with(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_defaults_are_tritons_ports_on_loopback() -> None:
    config = load_config(REPOSITORY, environment={})
    assert (config.grpc_port, config.http_port, config.metrics_port) == (8001, 8000, 8002)
    assert config.host == "127.0.0.1"
    assert config.model_control == "none"
    assert config.admin == "socket"
    assert not config.opened_groups
    assert config.model_repository == ("models",)


def test_flags_go_before_environment_and_environment_before_file(tmp_path: Path) -> None:
    file = file_with(tmp_path, "grpc_port: 1\nhttp_port: 1\nmetrics_port: 1\n")
    environment = {"CONVSERVE_GRPC_PORT": "2", "CONVSERVE_HTTP_PORT": "2"}
    config = load_config({**REPOSITORY, "grpc_port": 3}, environment, file)
    assert (config.grpc_port, config.http_port, config.metrics_port) == (3, 2, 1)


def test_flag_that_was_not_given_leaves_the_other_sources_alone(tmp_path: Path) -> None:
    file = file_with(tmp_path, "strict_config: true\nmodel_repository: from-file\n")
    flags = {"strict_config": None, "model_repository": None, "host": None}
    config = load_config(flags, {"CONVSERVE_HOST": "::1"}, file)
    assert config.strict_config
    assert config.model_repository == ("from-file",)
    assert config.host == "::1"


def test_flag_that_is_false_is_given(tmp_path: Path) -> None:
    file = file_with(tmp_path, "strict_config: true\n")
    assert not load_config({**REPOSITORY, "strict_config": False}, {}, file).strict_config


@pytest.mark.parametrize("name", ServerConfig.model_fields)
def test_every_setting_is_a_variable_and_a_key(name: str, tmp_path: Path) -> None:
    values = {"bool": "true", "float": "7.0", "int": "7"}
    annotation = ServerConfig.model_fields[name].annotation
    chosen = {"model_control": "poll", "admin": "token", "admin_open": "settings", "wire": "grpcio"}
    chosen |= {"engine_process": "true", "audit": "true", "audit_sample": "0.5"}
    chosen |= {"console": "false", "engine": "openvino"}
    chosen |= {"jwt_algorithms": "PS256", "tls_client_auth": "optional"}
    value = chosen.get(name) or values.get(getattr(annotation, "__name__", ""), "x")
    needed = {**REPOSITORY, "admin": "token", "admin_token_file": "t"}
    if name.startswith("tls_"):
        needed = {**REPOSITORY, "tls_cert": "t", "tls_key": "t", "tls_client_ca": "t"}
    elif name not in ("admin_token_file", "admin"):
        needed = REPOSITORY
    if name in JWT:
        needed = {**REPOSITORY, **JWT}
    needed = {key: given for key, given in needed.items() if key != name}
    expected = getattr(ServerConfig.model_validate({**REPOSITORY, name: value}), name)
    assert expected != ServerConfig.model_fields[name].default
    from_environment = load_config(needed, {"CONVSERVE_" + name.upper(): value})
    assert getattr(from_environment, name) == expected
    file = file_with(tmp_path, f"{name}: {value}\n")
    from_file = load_config(needed, {}, file)
    assert getattr(from_file, name) == expected


def test_engine_is_one_that_there_is() -> None:
    assert get_args(EngineChoice) == ("auto", *ENGINES)
    with pytest.raises(ConfigError, match=r"^CONVSERVE_ENGINE: .*'openvino'.*got 'openvno'"):
        load_config(REPOSITORY, {"CONVSERVE_ENGINE": "openvno"})


def test_process_environment_is_read_where_none_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CONVSERVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CONVSERVE_THREADS", "5")
    assert load_config(REPOSITORY).threads == 5


def test_foreign_variables_do_not_matter() -> None:
    environment = {"GRPC_PORT": "1", "CONVSERVE_GRPC_PORTS": "1", "convserve_grpc_port": "1"}
    assert load_config(REPOSITORY, environment).grpc_port == 8001


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("grcp_port", "; did you mean 'grpc_port'?"),
        ("drain_second", "; did you mean 'drain_seconds'?"),
        ("zzz", ""),
    ],
)
def test_unknown_key_names_the_file_and_the_nearest_setting(
    tmp_path: Path, key: str, hint: str
) -> None:
    file = file_with(tmp_path, f"host: a\n{key}: 1\n")
    with pytest.raises(ConfigError) as refusal:
        load_config(REPOSITORY, {}, file)
    assert str(refusal.value) == f"{file}: unknown setting {key!r}{hint}"


def test_key_that_is_no_name_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown setting 8001"):
        load_config(REPOSITORY, {}, file_with(tmp_path, "8001: grpc\n"))


def test_missing_repository_names_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"^--model-repository: missing$"):
        load_config({}, {})


def test_wrong_value_names_the_source_it_came_from(tmp_path: Path) -> None:
    file = file_with(tmp_path, "grpc_port: many\n")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: .*integer.* got 'many'"):
        load_config(REPOSITORY, {}, file)
    with pytest.raises(ConfigError, match=r"^CONVSERVE_GRPC_PORT: .*got 'few'"):
        load_config(REPOSITORY, {"CONVSERVE_GRPC_PORT": "few"}, file)
    with pytest.raises(ConfigError, match=r"^--grpc-port: .*65535, got 70000"):
        load_config({**REPOSITORY, "grpc_port": 70000}, {"CONVSERVE_GRPC_PORT": "few"}, file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http_port", -1), ("metrics_port", 65536), ("poll_seconds", 0), ("drain_seconds", -1),
        ("threads", -1), ("max_image_pixels", 0), ("max_message_mib", 0), ("memory_mib", -1),
        ("model_control", "sometimes"), ("strict_config", "maybe"), ("admin", "everybody"),
        ("admin_open", "repository,files"), ("shared_memory", ""), ("shared_memory", "a/b"),
        ("max_message_mib", 2048),
        ("drain_seconds", math.inf), ("poll_seconds", math.inf), ("drain_seconds", math.nan),
        ("max_connection_age_seconds", 1e9),
    ],
)  # fmt: skip
def test_value_out_of_range_is_refused(name: str, value: object) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ConfigError, match=f"^{flag}: .*got {value!r}$"):
        load_config({**REPOSITORY, name: value}, {})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"admin": "token"}, "neither goes without the other"),
        ({"admin_token_file": "t"}, "neither goes without the other"),
        ({"admin": "off", "admin_open": "settings"}, "--admin-open: --admin off takes no"),
        ({"admin_open": "settings,memory"}, "--admin-open memory: needs --shared-memory PREFIX"),
        ({"admin": "off", "admin_socket": "s"}, "--admin-socket: --admin off takes no"),
    ],
)
def test_admin_settings_of_which_one_makes_the_other_useless_are_refused(
    settings: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config({**REPOSITORY, **settings}, {})


@pytest.mark.parametrize("given", ["memory,repository", " memory , repository,"])
def test_groups_of_admin_calls_are_opened_by_name(given: str) -> None:
    config = load_config({**REPOSITORY, "admin_open": given, "shared_memory": "x"}, {})
    assert config.opened_groups == {"memory", "repository"}


@pytest.mark.parametrize("name", ["grpc_port", "http_port", "metrics_port"])
def test_port_zero_asks_for_a_free_one(name: str) -> None:
    assert getattr(load_config({**REPOSITORY, name: 0}, {}), name) == 0


def test_flag_that_is_no_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--colour: "):
        load_config({**REPOSITORY, "colour": "red"}, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host: [", "not valid YAML"),
        ("- host\n- port\n", "expected settings as 'name: value' lines"),
        ("", "expected settings as 'name: value' lines"),
        ("host: \x07", "not valid YAML"),
        ("!!python/object:os.system {}", "not valid YAML"),
        ("threads: " + "9" * 5000, "not valid YAML"),
        ("[" * 100_000, "not valid YAML"),
        ("host: 2026-99-99", "not valid YAML"),
    ],
)
def test_file_that_holds_no_settings_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = file_with(tmp_path, text)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {said}"):
        load_config(REPOSITORY, {}, file)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: cannot be read"):
            load_config(REPOSITORY, {}, path)


def test_file_in_another_encoding_is_named_and_a_mark_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"\xef\xbb\xbfthreads: 5\r\n")
    assert load_config(REPOSITORY, {}, file).threads == 5
    for content, said in (
        (b"# caf\xe9\nthreads: 5\n", "line 1: byte 0xe9 is not UTF-8"),
        ("threads: 5\n".encode("utf-16"), "line 1: UTF-16, expected UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: cannot be read: {said}"):
            load_config(REPOSITORY, {}, file)


def test_tokens_are_taken_where_all_is_known_about_them() -> None:
    config = load_config({**REPOSITORY, **JWT, "jwt_algorithms": "ES256, PS512"}, {})
    assert config.jwt == ("i", "a", JWT["jwt_jwks"], ["ES256", "PS512"], "roles")
    assert load_config(REPOSITORY, {}).jwt is None
    # As variables that a container's settings leave empty.
    empty = {f"CONVSERVE_{name.upper()}": "" for name in JWT}
    assert load_config(REPOSITORY, empty).jwt is None
    for name in JWT:
        rest = {key: value for key, value in JWT.items() if key != name}
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: missing; issuer"):
            load_config({**REPOSITORY, **rest}, {})


@pytest.mark.parametrize("algorithms", ["HS256", "none", "RS256,HS256", "", ","])
def test_algorithms_of_tokens_are_those_of_public_keys(algorithms: str) -> None:
    with pytest.raises(ConfigError, match="--jwt-algorithms: expected some of RS256"):
        load_config({**REPOSITORY, **JWT, "jwt_algorithms": algorithms}, {})


def test_policy_and_open_admin_contradict_each_other() -> None:
    for opened in ({"admin": "open"}, {"admin_open": "settings"}):
        with pytest.raises(ConfigError, match="--policy says who may do that"):
            load_config({**REPOSITORY, "policy": "p.yaml", **opened}, {})


def test_password_of_a_repository_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"^--model-repository: the URL holds a user") as refused:
        load_config({"model_repository": ["models", "s3://me:secret1@bucket/models"]}, {})
    assert "secret1" not in str(refused.value)
    variable = {"CONVSERVE_MODEL_REPOSITORY": "models,s3://bucket/models/"}
    assert load_config({}, variable).model_repository == ("models", "s3://bucket/models")
