"""The pages of docs/tutorials, run as they stand: every command typed, every file written, and
every line of output that they show looked for.

A page works in an empty folder, or in a copy of the one in which the page before it ended, with
links to what it takes from a checkout. Its ports are free ones. helm, kubectl and docker, where
they would change a cluster or a registry, are those of cluster.py.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helm.tools import program
from tests.tutorials.page import FOLDER, PAGES, PageError, Save, Type, before, missing_line, steps
from tests.tutorials.terminal import Terminal, ports_for

ROOT = Path(__file__).parents[2]
OF_CHECKOUT = ("Dockerfile", "helm")
# What `localhost` means on a page: gRPC, HTTP and metrics of the server, and Envoy.
PORTS = (8001, 8000, 8002, 8080)


class Pages:
    """Runs each page once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed: dict[str, str] = {}
        self._done: set[str] = set()

    def run(self, name: str) -> None:
        """Fails where the page does, or one before it did."""
        if name in self._failed:
            pytest.fail(f"{name}.md: {self._failed[name]}")
        if name in self._done:
            return
        try:
            self._run(name)
        except BaseException as error:
            self._failed[name] = str(error)
            raise
        self._done.add(name)

    def _run(self, name: str) -> None:
        text = (FOLDER / f"{name}.md").read_text()
        folder = self._folder / name
        if (first := before(text)) is None:
            folder.mkdir()
            for link in OF_CHECKOUT:
                (folder / link).symlink_to(ROOT / link)
        else:
            self.run(first)
            shutil.copytree(self._folder / first, folder, symlinks=True)
        stand_ins = self._stand_ins() if "kubectl" in text or "helm " in text else []
        terminal = Terminal(folder, stand_ins, ports_for(PORTS))
        try:
            for step in steps(text):
                if isinstance(step, Save):
                    terminal.save(step.name, step.text)
                else:
                    check(name, step, *terminal.run(step.commands))
        finally:
            terminal.close()

    def _stand_ins(self) -> list[Path]:
        """A folder with the helm and kubectl of a cluster that is not there."""
        for needed in ("helm", "kubectl", "kubernetes-validate"):
            program(needed)
        folder = self._folder / "stand-ins"
        folder.mkdir(exist_ok=True)
        for name in ("docker", "helm", "kubectl"):
            script = folder / name
            # Without this folder, in which the real programs would not be found.
            real = 'PATH="${PATH#*:}" exec python -m tests.tutorials.cluster'
            script.write_text(f'#!/bin/sh\n{real} {name} "$@"\n')
            script.chmod(0o755)
        return [folder]


def check(name: str, step: Type, status: int, printed: str) -> None:
    where = f"docs/tutorials/{name}.md, line {step.line}"
    if step.fails:
        assert status > 0, f"{where} did not fail:\n{step.commands}\n{printed}"
    else:
        assert status == 0, f"{where} ended with status {status}:\n{step.commands}\n{printed}"
    absent = missing_line(step.prints, printed)
    assert absent is None, f"{where}: expected to see\n{absent}\nin\n{printed}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("tutorials")
    yield Pages(folder)
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_runs_as_written(pages: Pages, name: str) -> None:
    pages.run(name)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_a_page_is_run(name: str) -> None:
    text = (FOLDER / f"{name}.md").read_text()
    assert any(isinstance(step, Type) for step in steps(text))
    assert before(text) in (None, *PAGES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```python\nprint()\n```\n", "a block of python that is not run"),
        ("```\nls\n```\n", "a block of no language that is not run"),
        ("```text\nlisting\n```\n", "output that no commands stand before"),
        ("Type:\n\n    ls\n", "code outside of a fenced block: '    ls'"),
        ("~~~bash\nls\n~~~\n", "code outside of a fenced block: '~~~bash'"),
        ("- first\n\n  ```bash\n  ls\n  ```\n", "code outside of a fenced block"),
    ],
)
def test_a_block_that_would_not_be_run_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(PageError, match=reason):
        steps(text)


def test_blocks_become_files_and_commands_with_their_output() -> None:
    text = (
        '```yaml title="a.yaml"\nname: a\n```\nThen\n\n```bash\nls\n```\n```text\na.yaml\n```\n'
        "and\n\n<!-- fails -->\n```bash\ncat b\n```\n"
    )
    assert steps(text) == [
        Save(1, "a.yaml", "name: a\n"),
        Type(6, "ls\n", ("a.yaml",)),
        Type(15, "cat b\n", (), fails=True),
    ]


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("top1 97.22% (95 %: 95.1 to 98.4)", "   top1  1.00%  (95 %: 0.1 to 100)"),
        ("1,136.1 requests/s", "90 requests/s"),
        ("digits/2/0002.png (int8-u8)", "digits/3/0717.png (bf16)"),
        ("Report: .../report.html", "Report: runs/digits/report.html"),
        ("drop -0.27", "drop 0.00"),
        ("first\n...\nlast", "before\nfirst\nbetween\nlast\nafter"),
    ],
)
def test_output_is_compared_but_for_what_differs_between_machines(
    expected: str, printed: str
) -> None:
    assert missing_line(tuple(expected.splitlines()), printed) is None


@pytest.mark.parametrize(
    ("expected", "printed", "missing"),
    [
        ("stopped", "", "stopped"),
        ("gate passed", "gate FAILED", "gate passed"),
        ("one\ntwo", "two\none", "two"),
        ("97.22% right", "right", "97.22% right"),
    ],
)
def test_output_that_is_not_printed_is_told(expected: str, printed: str, missing: str) -> None:
    assert missing_line(tuple(expected.splitlines()), printed) == missing


def test_a_terminal_keeps_its_shell_and_tells_the_command_that_fails(tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    terminal = Terminal(folder, [], ports_for([8001]))
    try:
        assert terminal.run("name=one\nsleep 60 &\n") == (0, "")
        status, printed = terminal.run(
            "echo $name localhost:8001\nkill %1\n"
            # Else the shell tells of its end whenever it notices.
            "wait %1 || true\n"
        )
        assert (status, printed.splitlines()[0]) == (0, "one localhost:8001")
        status, printed = terminal.run("echo before\ncat absent\necho after")
        assert (status, "before" in printed, "after" in printed) == (1, True, False)
        assert terminal.run("cat") == (0, "")
    finally:
        terminal.close()
