"""`convserve loadtest` as a person runs it, against `convserve serve`."""

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.cli.output import Reports, deliver
from loadtest.results import Phase, Run

COMMAND = [sys.executable, "-m", "convserve", "loadtest"]


def loadtest(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def report(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["loadtest", "report", *arguments])


def test_a_run_measures_and_its_file_reports_the_same(served: Any, tmp_path: Path) -> None:
    raw, page, junit = tmp_path / "raw.npz", tmp_path / "run.html", tmp_path / "junit.xml"
    done = loadtest(
        "run", "--url", served.url, "--model", "mean", "--concurrency", "2,4",
        "--duration", "1", "--warmup", "0.3", "--workers", "2", "--objective", "1s", "--json",
        "--metrics-url", served.metrics_url, "--output", str(raw), "--html", str(page),
        "--junit", str(junit), "--fail-if", "errors>0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    for phase, level in zip(document["phases"], (2, 4), strict=True):
        assert phase["concurrency"] == level
        assert phase["requests_per_second"] > 10
        assert phase["errors"] == {}
        latency = phase["latency_ms"]
        assert 0 < latency["p50"]["value"] <= latency["p99"]["value"] <= latency["max"] * 1.01
        assert latency["p99"]["low"] <= latency["p99"]["value"] <= latency["p99"]["high"]
        assert phase["mean_batch_size"] >= 1
        assert phase["good_rate"] > 0.9
        assert phase["generator"]["workers"] == 2
        assert 0 < phase["generator"]["cpu"] < 3
        assert phase["server"]["resident_bytes"] > 1 << 20
        assert phase["server"]["metrics"]["executions"] > 0
        assert phase["server"]["statistics"]["executions"] > 0
    assert document["failures"] == []
    assert len(ElementTree.parse(junit).getroot()) == 2

    again = report(str(raw), "--json", "--html", str(tmp_path / "later.html"))
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == document
    assert (tmp_path / "later.html").read_text() == page.read_text()
    text = page.read_text()
    assert text.count("<svg") == 6
    assert not re.search(r'(src|href)="?http', text)
    assert "Latency against throughput" in text

    # As if a second machine had done the same beside it.
    merged = json.loads(report(str(raw), str(raw), "--json").stdout)
    for one, two in zip(document["phases"], merged["phases"], strict=True):
        assert two["requests"] == 2 * one["requests"]
        assert two["latency_ms"]["p50"]["value"] == one["latency_ms"]["p50"]["value"]


def test_an_open_loop_keeps_its_rate(served: Any) -> None:
    done = loadtest(
        "run", "--url", served.url, "--model", "mean", "--rate", "50", "--arrivals", "constant",
        "--duration", "2", "--warmup", "0.2", "--json", "--max-lateness", "1s", "--seed", "4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (phase,) = json.loads(done.stdout)["phases"]
    assert phase["requests"] == 100
    assert phase["generator"]["lateness_ms"]["p99"] < 1000


def test_a_run_in_which_no_request_is_due_has_no_figures(served: Any) -> None:
    done = loadtest(
        "run", "--url", served.url, "--model", "mean", "--rate", "0.01", "--duration", "0.4s",
        "--warmup", "0.1", "--json",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "convserve: nothing was answered (no request)\n"
    (phase,) = json.loads(done.stdout)["phases"]
    assert phase["requests"] == 0
    assert phase["latency_ms"] == {}
    assert phase["requests_per_second"] == phase["error_rate"] == 0
    # Shares of a core: at most those of the processes that there are.
    assert phase["generator"]["cpu"] <= 2
    assert phase["server"].get("cpu", 0) <= (os.cpu_count() or 1)


def test_a_search_in_which_no_request_is_due_says_so(served: Any) -> None:
    done = loadtest(
        "search", "--url", served.url, "--model", "mean", "--p99", "1s", "--start", "0.01",
        "--duration", "0.2", "--warmup", "0",
    )  # fmt: skip
    assert done.returncode == 1
    assert "no rate keeps p99 1000 ms, errors 0.00% (at 0.01 requests/s: no request" in done.stdout
    assert done.stderr.strip().endswith("(at 0.01 requests/s: no request was due)")


def test_answers_of_a_labelled_folder_are_checked(vision_server: Any, tmp_path: Path) -> None:
    for folder, content in (("cat", b"cat"), ("dog", b"cat")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(content)
    done = loadtest(
        "run", "--url", vision_server.url, "--model", "animals", "--labelled", str(tmp_path),
        "--requests", "200", "--concurrency", "2", "--warmup", "0", "--streams", "1",
        "--fail-if", "accuracy<0.9", "--deadline", "5s=1,10s=1", "--priority", "1=1,2=1",
    )  # fmt: skip
    assert done.returncode == 1
    assert "accuracy         50.00% of 200 answers right" in done.stdout
    assert "mean batch size  4.00 (from answers)" in done.stdout
    assert "decode 0.01 ms" in done.stdout
    assert done.stderr.strip().endswith("accuracy<0.9: concurrency 2 has accuracy 0.5")
    assert {r.options.priority for r in vision_server.answers.seen} == {1, 2}
    assert {r.options.timeout.seconds for r in vision_server.answers.seen} == {5, 10}


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """JPEGs of one colour in a folder of its name."""
    for channel, name in enumerate(("blue", "green", "red")):
        (tmp_path / name).mkdir()
        pixels = np.zeros((24, 16, 3), np.uint8)
        pixels[..., channel] = 200
        assert cv2.imwrite(str(tmp_path / name / "1.jpg"), pixels)
    return tmp_path


@pytest.mark.parametrize(
    ("wire", "flags"),
    [
        ("rest_url", ["--rows", "2"]),
        ("url", ["--api", "oip", "--rows", "2"]),
        ("url", ["--api", "vision"]),
        ("url", ["--api", "oip", "--streams", "1"]),
    ],
)
def test_images_are_sent_and_answers_checked_over_every_wire(
    served: Any, colours: Path, wire: str, flags: list[str]
) -> None:
    url = getattr(served, wire)
    common = ["--url", url, "--model", "colours", "--requests", "40", "--warmup", "0", *flags]
    done = loadtest(
        "run", *common, "--labelled", str(colours), "--fail-if", "accuracy<100%", "--json"
    )
    assert done.returncode == 0, done.stderr
    (phase,) = json.loads(done.stdout)["phases"]
    assert phase["accuracy"]["checked"] >= 40
    assert phase["errors"] == {}


def test_a_search_sends_images_over_rest(served: Any, colours: Path) -> None:
    done = loadtest(
        "search", "--url", served.rest_url, "--model", "colours", "--images", str(colours),
        "--p99", "5s", "--start", "20", "--highest", "20", "--duration", "0.5", "--warmup", "0",
        "--max-lateness", "2s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "highest rate that keeps p99 5000 ms, errors 0.00%: 20.0 requests/s" in done.stdout


def test_a_model_without_an_input_for_images_is_named_over_rest(served: Any) -> None:
    arguments = ["run", "--url", served.rest_url, "--model", "mean", "--synthetic", "8x8"]
    done = CliRunner().invoke(app, ["loadtest", *arguments])
    assert done.exit_code == 1
    assert "model 'mean' has no input for image files (its inputs: x)" in done.stderr


def test_messages_of_a_stream_that_can_have_no_trace_are_refused_one(served: Any) -> None:
    arguments = ["--url", served.url, "--model", "mean", "--streams", "1", "--trace", "0.5"]
    done = CliRunner().invoke(app, ["loadtest", "run", *arguments])
    assert done.exit_code == 2
    assert "--trace: messages of ModelStreamInfer have no" in done.stderr


def test_two_servers_are_compared_in_turns(served: Any, vision_server: Any) -> None:
    done = loadtest(
        "run", "--url", served.url, "--model", "mean", "--against", f"ipv4:{served.url}",
        "--rounds", "2", "--duration", "0.4", "--warmup", "0.1", "--concurrency", "2", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [phase["label"] for phase in document["phases"]] == ["A 1", "B 1", "A 2", "B 2"]
    comparison = document["comparison"]
    assert comparison["rounds"] == 2
    found = comparison["requests_per_second"]
    assert found["low"] < found["ratio"] < found["high"]


def test_search_finds_a_rate(served: Any, tmp_path: Path) -> None:
    done = loadtest(
        "search", "--url", served.url, "--model", "mean", "--p99", "5s", "--start", "20",
        "--highest", "40", "--duration", "0.5", "--warmup", "0.1", "--max-lateness", "2s",
        "--curve", "2", "--output", str(tmp_path / "raw.npz"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "highest rate that keeps p99 5000 ms, errors 0.00%: 40.0 requests/s" in done.stdout
    later = report(str(tmp_path / "raw.npz"))
    assert later.stdout == done.stdout


def under_way(*arguments: str) -> subprocess.Popen[str]:
    """A run of two workers that has said how far it is, as the leader of a process group, to which
    a terminal sends Ctrl-C."""
    process = subprocess.Popen(
        [
            *COMMAND, *arguments, "--model", "mean", "--workers", "2", "--warmup", "0.1",
            "--duration", "60",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    # Its first line of progress says that it is under way.
    assert "requests/s" in process.stderr.readline()
    return process


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_ends_early_with_a_report(
    by: signal.Signals, served: Any, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.npz"
    process = under_way("run", "--url", served.url, "--concurrency", "2", "--output", str(raw))
    os.killpg(process.pid, by)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    *progress, said = error.splitlines()
    assert all("requests/s" in line for line in progress), error
    assert said.startswith("convserve: interrupted; ")
    assert "ended early" in output
    assert "p99" in output
    assert raw.exists()


def test_interrupted_search_does_not_say_that_no_rate_is_kept(served: Any) -> None:
    process = under_way("search", "--url", served.url, "--p99", "5s", "--start", "20")
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert output == "interrupted before a rate kept p99 5000 ms, errors 0.00%\n"


def test_second_ctrl_c_ends_the_workers_without_a_word(served: Any) -> None:
    process = under_way("run", "--url", served.url)
    os.killpg(process.pid, signal.SIGSTOP)  # so that both are there at once
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGCONT)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert error.splitlines()[-1] == "convserve: interrupted"
    assert "Traceback" not in error


def test_interrupted_before_the_first_answer_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phase = Phase(
        label="concurrency 1", url="h:1", arrivals="closed", rate=0.0, concurrency=1, started=0.0,
        begin=0.0, end=0.0, workers=1, interrupted=True,
    )  # fmt: skip
    with pytest.raises(typer.Exit) as ended:
        deliver(Run({}, ("m",), (phase,)), Reports(output=tmp_path / "raw.npz"), interrupted=True)
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == ("", "convserve: interrupted; nothing was measured\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--url", "127.0.0.1:1", "--model", "m"], 1, "no server answers at 127.0.0.1:1"),
        (["--url", "http://127.0.0.1:1", "--model", "m"], 1, "no server answers at"),
        (["--model", "none"], 1, "no model 'none'"),
        (["--model", "mean", "--images", "EMPTY"], 1, "no images"),
        (["--model", "mean", "--labelled", "/nowhere"], 1, "/nowhere: not a folder"),
        (["--model", "mean", "--synthetic", "8x8"], 1, "no input for image files"),
        (["--model", "mean", "--npy", "/nowhere.npy"], 1, "No such file"),
        (["--model", "mean", "--metrics-url", "http://127.0.0.1:1/"], 1, "--metrics-url"),
        (["--model", "mean", "--output", "/nowhere/raw.npz"], 1, "there is no folder /nowhere"),
        (["--model", "mean", "--replay", "/nowhere"], 1, "/nowhere"),
        (["--model", "mean", "--fail-if", "p99"], 2, "FIGURE>VALUE"),
        (["--model", "mean", "--concurrency", "0"], 2, "--concurrency"),
        (["--model", "mean", "--rate", "0"], 2, "expected rates above 0"),
        (["--model", "mean", "--rate", "1", "--concurrency", "1"], 2, "give one of"),
        (["--model", "mean", "--duration", "soon"], 2, "expected a time"),
        (["--model", "mean", "--deadline", "x"], 2, "expected a time"),
        (["--model", "mean", "--deadline", "20=1,1s=1"], 2, "such as 20ms, got '20'"),
        (["--model", "mean", "--objective", "50"], 2, "such as 50ms, got '50'"),
        (["--model", "mean=x"], 2, "--model"),
    ],
)
def test_bad_input_is_one_clear_line(
    served: Any, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    given = [str(tmp_path) if a == "EMPTY" else a for a in arguments]
    url = [] if "--url" in given else ["--url", served.url]
    done = CliRunner().invoke(app, ["loadtest", "run", *url, *given])
    assert done.exit_code == status, done.stderr
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    if status == 1:
        assert len(done.stderr.strip().splitlines()) == 1


def test_search_wants_the_unit_of_its_latency(served: Any) -> None:
    search = ["loadtest", "search", "--url", served.url, "--model", "mean", "--p99", "20"]
    done = CliRunner().invoke(app, search)
    assert done.exit_code == 2
    assert "such as 20ms, got '20'" in " ".join(done.stderr.replace("│", " ").split())
