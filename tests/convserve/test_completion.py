"""Completion in shells: words, the scripts, their installation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from convserve import completing
from convserve.commands import COMMANDS
from convserve.completing import FILES, Table, candidates, gathered
from convserve.completion import SHELLS, app
from tests.support.terminal import Terminal
from tests.test_help import commands

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table() -> Table:
    return gathered()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table) -> Path:
    """A home whose table of options is kept, and a working folder with models and recipes."""
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(completing, "gathered", lambda: table)
    completing.table()
    work = tmp_path / "work"
    for model in ("faces", "flowers", ".hidden"):
        (work / "model_repo" / model).mkdir(parents=True)
        (work / "model_repo" / model / "config.pbtxt").touch()
    (work / "model_repo" / "notes").mkdir()
    (work / "others" / "parts").mkdir(parents=True)
    (work / "others" / "parts" / "config.pbtxt").touch()
    for name in ("flowers.yaml", "faces.yml", "notes.txt"):
        (work / name).touch()
    monkeypatch.chdir(work)
    return tmp_path


def offered(*so_far: str, begun: str = "") -> list[str]:
    return [word for word, _ in candidates(list(so_far), begun) if word.startswith(begun)]


def test_first_word_is_a_command(home: Path) -> None:
    assert offered() == list(COMMANDS)
    assert offered("keys") == ["new", "list", "revoke"]
    assert offered("no-such-command") == []


def test_options_are_those_of_every_command(table: Table) -> None:
    assert set(table) == set(commands())
    for name, (_, command) in commands().items():
        flags = {flag for p in command.params for flag in p.opts if flag.startswith("--")}
        assert flags <= set(table[name]["options"])


def test_values_are_choices_models_recipes_or_files(home: Path) -> None:
    assert offered("serve", "--wire") == ["auto", "native", "grpcio"]
    assert offered("predict", "--model") == ["faces", "flowers"]
    assert offered("predict", "--model-repository", "others", "--model") == ["parts"]
    assert offered("predict", "--model-repository", "nowhere", "--model") == []
    assert offered("build") == ["faces.yml", "flowers.yaml", "model_repo/", "others/"]
    assert offered("build", begun="fl") == ["flowers.yaml"]
    assert list(candidates(["build"], "no")) == [(FILES, "")]
    assert list(candidates(["predict"], "")) == [(FILES, "")]
    assert list(candidates(["serve", "--cache-dir"], "")) == [(FILES, "")]
    assert "--model-repository" in offered("serve", begun="--mo")


def test_table_of_another_version_is_gathered_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = home / ".cache" / "convserve" / "completion.json"
    for text in (json.dumps({"version": "0", "commands": [], "table": {}}), "{", "[]"):
        kept.write_text(text)
        assert "serve" in completing.table()
    assert "serve" in json.loads(kept.read_text())["table"]
    monkeypatch.setattr(completing, "gathered", dict)
    assert "serve" in completing.table()


def test_words_come_without_importing_what_is_slow(home: Path) -> None:
    program = (
        "import sys; sys.argv = ['convserve', 'completion', 'words', '2', 'convserve', 'predict',"
        " '--mo']\n"
        "from convserve.__main__ import main; main()\n"
        "assert not {'typer', 'serving', 'training'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[0].startswith("--model\t")
    assert done.stderr == ""


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["completion", *words], catch_exceptions=False)


@pytest.mark.parametrize("shell", SHELLS)
def test_installed_twice_is_installed_once(home: Path, shell: str) -> None:
    (home / ".bashrc").write_text("echo mine")
    (home / ".bashrc").chmod(0o640)
    for _ in range(2):
        done = run("install", "--shell", shell, "--json")
        assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["script"]).read_text() == run("show", shell).stdout
    if told["loaded_by"] is not None:
        lines = Path(told["loaded_by"]).read_text().splitlines()
        assert sum(told["script"] in line for line in lines) == 1
    assert (home / ".bashrc").read_text().startswith("echo mine")
    assert (home / ".bashrc").stat().st_mode & 0o777 == 0o640


def test_shell_is_that_of_the_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert ".config/fish/completions/convserve.fish" in run("install").stdout
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done = run("install")
    assert done.exit_code == 1
    assert done.stderr == (
        "convserve completion: the shell tcsh is none of bash, zsh, fish; --shell names one\n"
    )
    assert run("install", "--shell", "tcsh").exit_code == 2


def test_bash_completes_by_the_script(home: Path) -> None:
    script = [
        f'convserve() {{ "{sys.executable}" -m convserve "$@"; }}',
        run("show", "bash").stdout,
        "COMP_WORDS=(convserve predict --model f)",
        "COMP_CWORD=3",
        "_convserve",
        'echo "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, text=True)
    assert done.stdout == "faces flowers\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_one_of_its_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = run("show", shell).stdout
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Lines that are typed into a shell, and the words that the command then gets.
TYPED = {
    "convserve predict --model fl\t": ["predict", "--model", "flowers"],
    "convserve predict --model=fl\t": ["predict", "--model=flowers"],
    "convserve serve --wire na\t": ["serve", "--wire", "native"],
    "convserve serve --model-rep\tx": ["serve", "--model-repository", "x"],
    "convserve build fl\t": ["build", "flowers.yaml"],
    "convserve build rec\tlo\t": ["build", "recipes/long name.yaml"],
    "convserve build recipes/long\\ n\t": ["build", "recipes/long name.yaml"],
    "convserve predict no\t": ["predict", "notes.txt"],
    "convserve serve --cache-dir=no\t": ["serve", "--cache-dir=notes.txt"],
    "convserve build --out=recipes/long\\ n\t": ["build", "--out=recipes/long name.yaml"],
    "convserve predict --model-repository ~/my\\ models --model li\t": [
        "predict", "--model-repository", "{home}/my models", "--model", "lilies",
    ],
}  # fmt: skip
STARTS = {
    "bash": (".bashrc", "PS1='ready> '\n"),
    "zsh": (".zshrc", "PS1='ready> '\n"),
    "fish": (".config/fish/config.fish", "function fish_prompt; echo 'ready> '; end\n"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_what_is_typed(home: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (home / "my models" / "lilies").mkdir(parents=True)
    (home / "my models" / "lilies" / "config.pbtxt").touch()
    (home / "work" / "recipes").mkdir()
    (home / "work" / "recipes" / "long name.yaml").touch()
    programs = home / "bin"
    programs.mkdir()
    (programs / "convserve").write_text(
        "#!/bin/sh\n"
        f'[ "$1 $2" = "completion words" ] && exec "{sys.executable}" -m convserve "$@"\n'
        "printf '<%s>' \"$@\"; echo '<end>'\n"
    )
    (programs / "convserve").chmod(0o755)
    name, prompt = STARTS[shell]
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).write_text(prompt)
    run("install", "--shell", shell)
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with Terminal([shell, "-i"], environment=paths) as terminal:
        for typed, words in TYPED.items():
            terminal.expect("ready> ")
            terminal.type(f"{typed}\n")
            got = terminal.expect("(<[^<>]+>)+<end>")[0]
            assert got.removesuffix("><end>")[1:].split("><") == [
                word.format(home=home) for word in words
            ], typed
