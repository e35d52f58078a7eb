"""How many connections a limit of open files leaves, and raising it."""

import resource
import subprocess
import sys

import pytest

from serving.base.machine.files import connections_within


@pytest.mark.parametrize(
    ("files", "wanted", "each"),
    [(1 << 20, 1024, 1024), (1024, 1024, 384), (4096, 1024, 1024), (300, 1024, 22), (100, 1024, 16),
     (100, 8, 8), (1 << 30, 5, 5)],
)  # fmt: skip
def test_ports_share_what_the_reserve_leaves(files: int, wanted: int, each: int) -> None:
    assert connections_within(files, wanted, ports=2) == each


def test_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource\n"
        "from serving.base.machine.files import raise_file_limit\n"
        "print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 700)),
    )
    assert done.stdout.strip() == "700 (700, 700)"
