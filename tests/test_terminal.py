"""Every command on every terminal: options that all have, Ctrl-C, closed pipes, odd encodings."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from serving.base.command import application
from serving.base.machine.terminal import is_quiet, json_text, next_step, records
from serving.cli.table import print_table
from tests.test_help import commands

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "convserve"]
# Seconds of a command that has little to do, on a machine that is busy.
LONG = 120
# The commands after which nothing comes, by the reason.
LAST = {
    "serve": "it runs until it is stopped",
    "loadtest search": "the rate is the end of the way",
    "report": "its last line names the page",
    "runs": "it lists what is there",
    "score": "its last line names the file",
    "loadtest report": "it shows again what a run has shown",
    "completion install": "it says what to do in its own line",
    "completion show": "its output is a script",
    "shards": "its last line is what a recipe says",
    "init": "its lines end with the commands",
}


@pytest.mark.parametrize("name", commands())
def test_every_command_has_json_and_quiet(name: str) -> None:
    _, command = commands()[name]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "--quiet"} <= flags


@pytest.mark.parametrize("name", commands())
def test_help_of_every_option_is_a_sentence(name: str) -> None:
    _, command = commands()[name]
    assert command.help, name
    for parameter in command.params:
        text = (parameter.help or "").strip()
        assert text[-1:] in (".", "?"), (parameter.name, text)
        assert not text[0].islower() or re.match(r"\S+[:,/ ]", text), (parameter.name, text)


@pytest.mark.parametrize("name", sorted(set(commands()) - set(LAST)))
def test_every_command_names_the_next_step(name: str) -> None:
    _, command = commands()[name]
    source = Path(sys.modules[_innermost(command.callback).__module__].__file__ or "")
    assert "next_step(" in source.read_text()


def test_documents_of_json_are_told_for_every_command() -> None:
    text = (ROOT / "docs" / "terminal.md").read_text()
    assert [name for name in commands() if f"| `{name}` |" not in text] == []


def _innermost(function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


# Ctrl-C.


def test_ctrl_c_is_one_line_and_130_in_every_command() -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    done = CliRunner().invoke(application(wait), ["wait"])
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "convserve: interrupted\n"


def test_ctrl_c_while_a_command_waits_for_a_server(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.touch()
    arguments = ["predict", str(image), "--model", "m", "--url", "127.0.0.1:1"]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert "waiting for m" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.stderr.read() == "convserve: interrupted\n"
        assert waiting.wait(LONG) == 130


# A small training, and images for shards.
RECIPE = """
name: tiny
task: classification
data: {source: digits}
transform: {resize: [8, 8]}
model: {name: resnet20_cifar}
train: {epochs: 50, batch_size: 64, optimizer: {name: sgd, lr: 0.1}}
"""


@pytest.mark.parametrize(
    ("arguments", "until"),
    [
        (["build", "tiny.yaml", "--study", "folds.yaml"], "train: epoch 2/"),
        (["shards", "photos", "out", "--images", "1"], "train-000002.tar: "),
    ],
)
def test_ctrl_c_at_work_is_one_line_and_leaves_nothing_behind(
    arguments: list[str], until: str, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "folds.yaml").write_text("cross_validation: {folds: 2}")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(200):
            pixels = np.full((4, 4, 3), index, np.uint8)
            assert cv2.imwrite(str(tmp_path / "photos" / name / f"{index}.png"), pixels)
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        while until not in (line := process.stderr.readline()):
            assert line, process.communicate()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the command
        output, error = process.communicate(timeout=LONG)
    assert (process.returncode, output) == (130, "")
    said = "interrupted; the same command goes on from where this one stopped\n"
    assert error.endswith(f"convserve {arguments[0]}: {said}")
    assert "Traceback" not in error
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    names = [path.name for path in tmp_path.rglob("*")]
    assert [name for name in names if name.startswith(".") or name.endswith(".partial")] == []


def test_ctrl_c_while_a_command_ends_has_no_traceback() -> None:
    program = (
        "import atexit, signal, sys\n"
        "atexit.register(signal.raise_signal, signal.SIGINT)  # as a person, while torch ends\n"
        "from convserve.__main__ import main\n"
        "sys.argv = ['convserve', 'doctor', '--json']; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGINT  # 130 in a shell
    assert done.stderr == ""


# Quiet.


def test_quiet_leaves_out_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        next_step("serve", "--model-repository", "my models")

    app = application(work)
    assert CliRunner().invoke(app, ["work", "--quiet"]).stderr == ""
    said = CliRunner().invoke(app, ["work"]).stderr
    assert said == "Next: convserve serve --model-repository 'my models'\n"
    assert not is_quiet()


def test_command_may_have_quiet_of_its_own() -> None:
    def work(
        quiet: Annotated[
            bool, typer.Option("--quiet", help="No lines.", show_default="off")
        ] = False,
    ) -> None:
        typer.echo(f"{quiet} {is_quiet()}")

    app = application(work)
    assert CliRunner().invoke(app, ["work", "--quiet"]).stdout == "True True\n"
    assert CliRunner().invoke(app, ["work"]).stdout == "False False\n"


# JSON.


class Stdout:
    """Of another encoding."""

    encoding = "iso-8859-1"


def test_json_is_json_whatever_the_encoding_and_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"name": "grün \x1b[31m ≤", "values": [1.5, float("nan"), float("inf")], "at": None}
    expected = {"name": document["name"], "values": [1.5, None, None], "at": None}
    for stdout in (sys.stdout, Stdout()):
        monkeypatch.setattr(sys, "stdout", stdout)
        text = json_text(document)
        monkeypatch.undo()
        assert json.loads(text) == expected
        assert "\x1b" not in text
    assert text.isascii()


# Streams that are closed, full or of another encoding.


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `convserve` is the command."""
    return subprocess.run(
        ["bash", "-c", f'convserve() {{ "{sys.executable}" -m convserve "$@"; }}\n{line}'],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )


@pytest.mark.parametrize("words", ["--help", "serve --help", "doctor --json"])
def test_whoever_reads_may_go_early(words: str) -> None:
    done = shell(f"convserve {words} | head -c 1")
    assert done.returncode == 0
    assert done.stderr == ""


def test_results_that_cannot_be_written_are_a_failure() -> None:
    done = shell("convserve --help > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "convserve: standard output: No space left on device\n"


def test_closed_streams_are_no_streams_of_another_file() -> None:
    done = shell("convserve doctor --json <&- >&-; echo $?; convserve doctor 2>&- | head -c 8")
    assert done.stdout == "0\nmachine "
    assert done.stderr == ""


def test_terminal_of_another_encoding_gets_help_and_names(tmp_path: Path) -> None:
    odd = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": ""}
    done = shell(f"convserve serve --help && convserve verify {tmp_path}/ä/1 --keys ä.pem", **odd)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "--model-repository" in done.stdout
    assert done.stdout.isascii()


# Of a user whom no list of users has.
NOBODY = "import pwd; pwd.getpwuid = {}.__getitem__; from convserve.__main__ import main; main()"
COMPLETION = ["completion", "install"]


def test_no_home_is_no_fault(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    for arguments, status in (["models", "--model-repository", "."], 0), (COMPLETION, 1):
        program = f"import sys; sys.argv = {['convserve', *arguments, '--quiet']!r}; {NOBODY}"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "SHELL": "/bin/bash"},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr


# Narrow terminals.


def test_table_that_does_not_fit_is_blocks_of_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["name", "variant", "latency", "why"]
    row = ["flowers", "int8-u8", "1: 0.20 ms, 8: 1.60 ms", ""]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    print_table(columns, [row, row])
    block = "name: flowers\nvariant: int8-u8\nlatency: 1: 0.20 ms,\n8: 1.60 ms\n"
    assert capsys.readouterr().out == f"{block}\n{block}"
    monkeypatch.setenv("COLUMNS", "120")
    print_table(columns, [row])
    assert "│ int8-u8 │" in capsys.readouterr().out
    assert records(["a", "b"], [["1", ""], ["2", "3"]]) == "a: 1\n\na: 2\nb: 3"


@pytest.mark.parametrize("name", ["build", "serve", "loadtest run", "keys new"])
def test_help_fits_forty_columns(name: str) -> None:
    app, _ = commands()[name]
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "40"})
    assert done.exit_code == 0
    # An option with its opposite or its choices stays in one line.
    lines = [line for line in done.output.splitlines() if not line.startswith("  --")]
    assert max(map(len, lines)) <= 40


def test_usage_fits_forty_columns_and_has_no_colour() -> None:
    done = shell("convserve --help; convserve serve --help", COLUMNS="40", NO_COLOR="1")
    assert max(len(one) for one in done.stdout.splitlines() if not one.startswith("  --")) <= 40
    assert "\x1b" not in done.stdout


def test_wrong_usage_is_told_on_a_terminal_without_colours() -> None:
    def work(number: int) -> None:
        typer.echo(number)

    done = CliRunner().invoke(application(work), ["work", "x"], env={"NO_COLOR": "1"})
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr


def test_serve_tells_its_ports_as_json_and_ends_with_0_by_ctrl_c(tmp_path: Path) -> None:
    flags = [word for port in ("grpc", "http", "metrics") for word in (f"--{port}-port", "0")]
    flags += ["--model-repository", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    with subprocess.Popen(
        [*COMMAND, "serve", "--json", "--quiet", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    ) as server:
        assert server.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(server.stdout.readline())
            assert lines[-1], lines
        told = json.loads("".join(lines))
        assert set(told) == {"host", "grpc_port", "http_port", "metrics_port", "tls"}
        assert told["grpc_port"] > 0
        server.send_signal(signal.SIGINT)
        rest, log = server.communicate(timeout=LONG)
    assert (server.returncode, rest, log) == (0, "", "")
