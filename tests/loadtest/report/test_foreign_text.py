"""Reports of a server, or of a raw file, whose names would steer the terminal."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.cli.output import failing
from loadtest.errors import LoadTestError
from loadtest.results import OK, Phase, Run, pack_record, records_of, write_run

EVIL = "a\x1b[2J\x1b]0;pwned\x07\x9b31m\u202egpj\r\nconvserve: all is well\u2028\x00\x7f"
PACKED = [pack_record(0.6 + i / 100, 0, 0.02, 0, OK, 0, 0, 1, -1, 1, 0, 0, 0, 0) for i in range(9)]
PHASE = Phase(
    label=EVIL, url=EVIL, arrivals="poisson", rate=0.2, concurrency=0, started=1000.0,
    begin=0.5, end=1.5, workers=1, records=records_of(PACKED),
    server={"metrics": {"mean_ms": {EVIL: 1.0}, "executions": 1, "mean_batch_size": 1.0}},
)  # fmt: skip


def shown(text: str) -> str:
    assert text.replace("\n", "").isprintable(), ascii(text)
    assert not [line for line in text.splitlines() if line.startswith("convserve: all is well")]
    return text


def test_reports_have_no_control_characters(tmp_path: Path) -> None:
    settings = {"seed": 0, "max_lateness": 0.01, "objective": 0.1}
    phases = (PHASE, replace(PHASE, label="b" * 100_000))
    write_run(Run(settings, (EVIL,), phases), tmp_path / "raw.npz")
    command = ["loadtest", "report", str(tmp_path / "raw.npz"), "--fail-if", "requests>0"]
    junit = tmp_path / "junit.xml"
    done = CliRunner().invoke(app, [*command, "--junit", str(junit)])
    assert done.exit_code == 1
    assert "gpj" in shown(done.stdout)
    shown(done.stderr)
    assert max(map(len, done.output.splitlines())) < 2100
    assert len(ElementTree.parse(junit).getroot()) == 2
    document = json.loads(shown(CliRunner().invoke(app, [*command, "--json"]).stdout))
    assert document["phases"][0]["label"] == EVIL


def test_failure_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @failing
    def command() -> None:
        raise LoadTestError(EVIL + "x" * 10_000)

    with pytest.raises(typer.Exit):
        command()
    said = capsys.readouterr().err
    assert len(shown(said).splitlines()) == 1
    assert len(said) < 2100
