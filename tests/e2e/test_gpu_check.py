"""scripts/gpu_check.py on a machine without a GPU: every step runs, at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_check_runs_on_a_cpu_and_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--out", str(tmp_path)]
    command += ["--network", "resnet20_cifar", "--side", "16", "--images", "8"]
    command += ["--batch-sizes", "1", "4", "--seconds", "0.2"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["engines"]["onnxruntime"] == "runs here"
    rows = {(row["variant"], row["engine"]): row for row in report["variants"]}
    assert set(report["engines"]) - {"tensorrt"} == {engine for _, engine in rows}
    for (variant, engine), row in rows.items():
        if report["engines"][engine] == "runs here":
            assert row["agreement"] >= 0.5, (variant, engine)
            assert set(row["milliseconds"]) == {"1", "4"}
        else:
            assert row["why_not"] == report["engines"][engine]
    assert set(report["server"]["ratio"]) == {"shared_memory", "unary_grpc"}
    assert all(value > 0 for value in report["server"]["images_per_second"].values())
    assert all(value > 0 for value in report["decode"].values())
    table = (tmp_path / "gpu_check.md").read_text()
    assert table in finished.stdout
    assert "| fp16 | onnxruntime | " in table
