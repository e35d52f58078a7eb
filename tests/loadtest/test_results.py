import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from loadtest.errors import LoadTestError
from loadtest.report.summary import summarise
from loadtest.results import (
    OK,
    RECORD,
    Phase,
    Records,
    Run,
    merge,
    pack_record,
    read_run,
    records_of,
    write_run,
)


def phase(latencies: list[float], label: str = "constant 10/s", late: float = 0.0) -> Phase:
    packed = [
        pack_record(i / 10, late, seconds, 0.0, OK, 0, 0, 1, -1, 4, 10, 20, 30, 40)
        for i, seconds in enumerate(latencies)
    ]
    return Phase(
        label=label, url="h:1", arrivals="constant", rate=10.0, concurrency=0, started=1000.0,
        begin=0.0, end=len(latencies) / 10, workers=1, generator_cpu=0.2,
        records=records_of(packed),
    )  # fmt: skip


def run(*phases: Phase) -> Run:
    return Run({"seed": 3, "max_lateness": 0.01}, ("m",), phases)


def same(one: Records, other: Records) -> bool:
    return bool((one == other).all())


def test_a_record_is_packed_as_it_is_read() -> None:
    values = (1.5, 0.25, 0.5, 2.0, 4, 3, 2, 7, 5, 8, 100, 200, 300, 400)
    records = records_of([pack_record(*values)])
    assert records[0].tolist() == values
    assert len(pack_record(*values)) == RECORD.itemsize


def test_a_run_is_read_as_it_was_saved(tmp_path: Path) -> None:
    before = run(phase([0.01, 0.02], "a"), phase([0.03], "b"))
    write_run(before, tmp_path / "raw.npz")
    after = read_run(tmp_path / "raw.npz")
    assert after.settings == before.settings
    assert [p.label for p in after.phases] == ["a", "b"]
    for one, other in zip(before.phases, after.phases, strict=True):
        assert same(one.records, other.records)
        assert replace(one, records=other.records) == other or one.label == other.label
    assert summarise(after) == summarise(before)


def test_raw_files_are_compact(tmp_path: Path) -> None:
    latencies = np.random.default_rng(0).exponential(0.01, 20_000).tolist()
    write_run(run(phase(latencies)), tmp_path / "raw.npz")
    assert (tmp_path / "raw.npz").stat().st_size < 20 * 20_000


def test_merged_runs_add_up() -> None:
    one, other = run(phase([0.01] * 100)), run(phase([0.03] * 100))
    merged = merge([one, other]).phases[0]
    assert len(merged.records) == 200
    assert merged.rate == 20.0
    assert merged.workers == 2
    assert merged.generator_cpu == pytest.approx(0.4)
    found = summarise(merge([one, other]))["phases"][0]
    assert found["requests_per_second"] == pytest.approx(20, rel=0.02)
    assert found["latency_ms"]["p50"]["value"] == pytest.approx(10, rel=0.01)
    assert found["latency_ms"]["p99"]["value"] == pytest.approx(30, rel=0.01)


def test_runs_of_other_loads_do_not_merge() -> None:
    with pytest.raises(LoadTestError, match="do not fit together"):
        merge([run(phase([0.01], "a")), run(phase([0.01], "b"))])
    with pytest.raises(LoadTestError, match="models"):
        merge([run(phase([0.01])), replace(run(phase([0.01])), models=("other",))])


def test_what_is_no_raw_file_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "raw.npz"
    for content in (b"", b"text", b"PK\x03\x04 broken"):
        wrong.write_bytes(content)
        with pytest.raises(LoadTestError, match="not a raw file"):
            read_run(wrong)
    np.savez(wrong, other=np.zeros(3))
    with pytest.raises(LoadTestError, match="not a raw file"):
        read_run(wrong)
    with pytest.raises(LoadTestError, match="No such file"):
        read_run(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("column", "header", "expected"),
    [
        ("due", {"shape": (10**12,), "descr": "<f8"}, "due: 1,000,000,000,000 elements, expected"),
        ("header", {"shape": (10**10,), "descr": "|u1"}, "header: 10,000,000,000 elements"),
        ("late", {"shape": (10**9,), "descr": "<f4"}, "late: 1,000,000,000 elements"),
        ("due", {"shape": (10**5, 10**5), "descr": "<f8"}, "not a raw file"),
        ("due", {"shape": (2,), "descr": "<U100000000"}, "not a raw file"),
        ("due", {"shape": (2,), "descr": "|O"}, "not a raw file"),
        ("status", {"shape": (1,), "descr": "|u1"}, "not a raw file"),
    ],
)
def test_arrays_of_a_raw_file_are_bounded_by_their_headers(
    column: str, header: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    write_run(run(phase([0.01, 0.02])), tmp_path / "good.npz")
    altered = io.BytesIO()
    npy.write_array_header_1_0(altered, {"fortran_order": False, **header})
    altered.write(bytes(100))
    with (
        zipfile.ZipFile(tmp_path / "good.npz") as good,
        zipfile.ZipFile(tmp_path / "raw.npz", "w") as raw,
    ):
        for name in good.namelist():
            raw.writestr(name, altered.getvalue() if name == f"{column}.npy" else good.read(name))
    with pytest.raises(LoadTestError, match=expected):
        read_run(tmp_path / "raw.npz")


@pytest.mark.parametrize(("field", "value"), [("status", 19), ("model", 1)])
def test_records_of_what_there_is_not_are_refused(field: str, value: int, tmp_path: Path) -> None:
    made = phase([0.01])
    records = made.records.copy()
    records[field] = value
    write_run(run(replace(made, records=records)), tmp_path / "raw.npz")
    with pytest.raises(LoadTestError, match="not a raw file"):
        read_run(tmp_path / "raw.npz")


def test_a_late_generator_voids_the_run() -> None:
    found = summarise(run(phase([0.05] * 200, late=0.02)))["phases"][0]
    assert "generator itself was late" in found["void"]
    assert not summarise(run(phase([0.05] * 200, late=0.002)))["phases"][0]["void"]


def test_batches_are_counted_once_each() -> None:
    # Four answers from one batch of 4 and one alone: 2 batches of 2.5.
    packed = [
        pack_record(i / 10, 0, 0.01, 0, OK, 0, 0, 1, -1, size, 0, 0, 0, 0)
        for i, size in enumerate((4, 4, 4, 4, 1))
    ]
    found = summarise(run(replace(phase([0.0] * 5), records=records_of(packed))))["phases"][0]
    assert found["mean_batch_size"] == pytest.approx(2.5)


def test_goodput_counts_answers_within_their_deadline() -> None:
    # Latency 20 ms: in time for a deadline of 50 ms, late for 10 ms; without one the objective.
    packed = [
        pack_record(i / 10, 0, 0.02, deadline, OK, 0, 0, 1, -1, 0, 0, 0, 0, 0)
        for i, deadline in enumerate((0.05, 0.01, 0.0, 0.0))
    ]
    each = replace(phase([0.0] * 4), records=records_of(packed))
    found = summarise(Run({"objective": 0.03}, ("m",), (each,)))["phases"][0]
    assert found["good_rate"] == pytest.approx(0.75)
    found = summarise(Run({"objective": 0.01}, ("m",), (each,)))["phases"][0]
    assert found["good_rate"] == pytest.approx(0.25)
