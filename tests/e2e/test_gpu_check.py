"""scripts/gpu_check.py without a GPU, and with two stand-ins: every step runs, at a tiny size."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import fake_gpu

ROOT = Path(__file__).parents[2]


def check(folder: Path, *flags: str, **settings: Any) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--out", str(folder)]
    command += ["--images", "32", "--batch-sizes", "1", "4", "--seconds", "0.1", *flags]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((folder / "gpu_check.json").read_text())
    table = (folder / "gpu_check.md").read_text()
    assert table in finished.stdout
    return report, table


@pytest.fixture(scope="module")
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Report and table of a check that makes its network, and the repository that holds it."""
    folder = tmp_path_factory.mktemp("check")
    return *check(folder, "--network", "resnet20_cifar", "--side", "16"), folder / "repository"


def test_check_runs_on_a_cpu_and_says_what_is_missing(
    on_a_cpu: tuple[dict[str, Any], str, Path],
) -> None:
    report, table, _ = on_a_cpu
    assert report["engines"]["onnxruntime"] == "runs here"
    rows = {(row["variant"], row["engine"]): row for row in report["variants"]}
    assert set(report["engines"]) - {"tensorrt"} == {engine for _, engine in rows}
    for (variant, engine), row in rows.items():
        if report["engines"][engine] == "runs here":
            assert row["agreement"] >= 0.5, (variant, engine)
            assert set(row["milliseconds"]) == {"1", "4"}
        else:
            assert row["why_not"] == report["engines"][engine]
    [server] = report["server"]
    assert set(server["ratio"]) == {"shared_memory", "unary_grpc"}
    assert all(value > 0 for value in server["images_per_second"].values())
    assert isinstance(report["decode"].pop("hardware"), str)
    assert all(value > 0 for value in report["decode"].values())
    assert "| fp16 | onnxruntime | " in table


def test_check_serves_fp16_of_each_engine_on_a_gpu_and_leaves_out_what_it_has_no_time_for(
    on_a_cpu: tuple[dict[str, Any], str, Path], tmp_path: Path
) -> None:
    shutil.copytree(on_a_cpu[2], tmp_path / "repository")
    model = ["--model-repository", str(tmp_path / "repository"), "--model", "resnet20_cifar"]
    report, table = check(tmp_path, *model, env=fake_gpu.environment())
    assert report["plans_that_failed"] == []
    [server] = report["server"]
    assert (server["variant"], server["engine"]) == ("fp16-sm90", "tensorrt")
    assert set(server["ratio"]) == {"shared_memory", "unary_grpc"}
    assert "Server against the bare engine, fp16-sm90 in tensorrt" in table
    report, _ = check(tmp_path / "short", *model, "--batch-sizes", "1", "64", "--budget", "0")
    assert report["batch_sizes"] == [1, 4]
    runs_here = [
        row for row in report["variants"] if report["engines"][row["engine"]] == "runs here"
    ]
    assert runs_here
    assert {row["why_not"] for row in runs_here} == {"left out: time"}
