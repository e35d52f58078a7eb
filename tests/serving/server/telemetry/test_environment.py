"""A variable that cannot be read is named; none is silently replaced by a default."""

import logging
import os
from pathlib import Path

import pytest
import trustme

from serving.server.config import StartError
from serving.server.telemetry.environment import asked


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """The text with which these variables are refused."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as found:
        asked()
    return str(found.value)


@pytest.mark.parametrize(
    ("variable", "values", "expected"),
    [
        ("OTEL_SDK_DISABLED", ["1", "yes"], "false or true"),
        ("OTEL_TRACES_EXPORTER", ["zipkin", "otlp,console"], "otlp or none"),
        ("OTEL_METRICS_EXPORTER", ["prometheus"], "otlp or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", ["grpc", "http"], "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", ["http/json"], "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", ["always", "jaeger_remote"], "always_on or "),
        ("OTEL_PROPAGATORS", ["b3", "none"], "tracecontext"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", ["zstd"], "none or gzip or deflate"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", ["delta"], "cumulative"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", ["always_off"], "trace_based"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", ["10000", "0", "-1", "soon", "nan", "inf"], "seconds"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            [
                "localhost:4318", "collector", "grpc://c:4317", "http://", "http://c:port",
                "http://c:99999", "http://c:0", "http://[::1", "http://c d", "http://c\n",
            ],
            "an http:// or https:// URL",
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ["http://c:4318#x"], "a URL without a query"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", ["c:4318/v1/metrics"], "an http:// or"),
        ("OTEL_RESOURCE_ATTRIBUTES", ["prod", "a=1,b", "=x"], "KEY=VALUE"),
    ],
)  # fmt: skip
def test_value_that_is_none_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, values: list[str], expected: str
) -> None:
    for value in values:
        text = refused(monkeypatch, **{variable: value})
        assert text.startswith(f"{variable}: expected {expected}"), text
        assert ", got " in text
        assert len(text) < 400


def test_value_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, OTEL_SERVICE_NAME="caf\udce9")
    assert text == "OTEL_SERVICE_NAME: expected text in UTF-8"


@pytest.mark.parametrize("ratio", ["7", "-0.1", "1%", "nan"])
def test_ratio_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, ratio: str) -> None:
    text = refused(monkeypatch, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=ratio)
    assert text == f"OTEL_TRACES_SAMPLER_ARG: expected 0 to 1, got {ratio!r}"


@pytest.mark.parametrize(
    "headers",
    [
        "secret",
        "authorization: secret",
        'key="secret"',
        "a=b,secret",
        "k=a%0asecret",
        "k=%e2secret",
    ],
)
def test_header_that_is_none_is_refused_without_its_value(
    monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    text = refused(monkeypatch, OTEL_EXPORTER_OTLP_TRACES_HEADERS=headers)
    assert text.startswith("OTEL_EXPORTER_OTLP_TRACES_HEADERS: expected NAME=VALUE")
    assert "secret" not in text


@pytest.mark.parametrize("address", ["://u:secret@c", "ftp://u:secret@c/v1", "c/v1?key=secret"])
def test_address_that_is_none_is_refused_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    text = refused(monkeypatch, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=address)
    assert text.startswith("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: expected an http")
    assert "secret" not in text


def test_file_that_is_no_certificate_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no certificate")
    for variable in ("OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"):
        for name in ("none", "text"):
            with monkeypatch.context() as patch:
                text = refused(patch, **{variable: str(tmp_path / name)})
                assert text.startswith(f"{variable}: '{tmp_path / name}' is not taken: ")


def test_key_needs_the_certificate_that_it_is_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    one, other = (authority.issue_cert("client") for _ in range(2))
    for name, pem in (
        ("key", one.private_key_pem),
        ("cert", one.cert_chain_pems[0]),
        ("other", other.private_key_pem),
        ("ca", authority.cert_pem),
    ):
        pem.write_to_path(tmp_path / name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "ca"))
    text = refused(monkeypatch, OTEL_EXPORTER_OTLP_CLIENT_KEY=str(tmp_path / "key"))
    assert text.startswith("OTEL_EXPORTER_OTLP_CLIENT_KEY: expected a certificate in OTEL_")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(tmp_path / "cert"))
    assert asked() == ["TRACES", "METRICS"]
    text = refused(monkeypatch, OTEL_EXPORTER_OTLP_CLIENT_KEY=str(tmp_path / "other"))
    assert "KEY_VALUES_MISMATCH" in text


def test_variables_of_a_signal_that_is_not_sent_are_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "unknown")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nowhere")
    assert asked() == ["METRICS"]
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "unknown")
    assert asked() == []


def test_setting_that_changes_nothing_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.01")
    monkeypatch.setenv("OTEL_PROPAGATORS", "tracecontext,baggage,b3")
    with caplog.at_level(logging.WARNING):
        asked()
    said = {vars(line)["variable"]: vars(line)["reason"] for line in caplog.records}
    assert said == {
        "OTEL_TRACES_SAMPLER_ARG": "OTEL_TRACES_SAMPLER=always_on has no ratio",
        "OTEL_PROPAGATORS": "callers' traces are read by tracecontext, not b3",
    }


def test_usual_settings_are_taken_in_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:word@collector.example:4318/otlp/",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://[::1]:9090/api/v1/otlp/v1/metrics?key=1",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20abc=,x-team = one two,",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=eyes,empty=,caf%C3%A9=x,",
        "OTEL_TRACES_SAMPLER": "ParentBased_TraceIdRatio",
        "OTEL_TRACES_SAMPLER_ARG": "1e-05",
        "OTEL_PROPAGATORS": "tracecontext, baggage",
        "OTEL_SDK_DISABLED": "",
    }.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO):
        assert asked() == ["TRACES", "METRICS"]
    assert not caplog.records
