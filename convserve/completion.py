"""`convserve completion install | show`."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, NoReturn, get_args

import typer

from convserve.completing import table
from serving.base.command import AsJson, grouped, one_of
from serving.base.files import write_whole
from serving.base.machine.progress import Progress
from serving.base.machine.terminal import json_text
from serving.base.text import one_line

Shell = Literal["bash", "zsh", "fish"]
SHELLS: tuple[Shell, ...] = get_args(Shell)

_BASH = r"""# Completion of convserve in bash.
_convserve() {
    local word about
    COMPREPLY=()
    while IFS=$'\t' read -r word about; do
        if [[ $word == :files ]]; then
            compopt -o default
        else
            [[ $word == */ ]] && compopt -o nospace
            COMPREPLY+=("$(printf %q "$word")")
        fi
    done < <(convserve completion words "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null)
}
complete -F _convserve convserve
"""

_ZSH = r"""# Completion of convserve in zsh.
_convserve() {
    local line word about
    local -a found folders
    local said="$(convserve completion words $((CURRENT - 1)) "${words[@]}" 2>/dev/null)"
    for line in "${(@f)said}"; do
        word=${line%%$'\t'*} about=${line#*$'\t'}
        if [[ $word == :files ]]; then
            compset -P '--*='
            _files
        elif [[ $word == */ ]]; then
            folders+=("$word")
        elif [[ -n $word ]]; then
            found+=("${word//:/\\:}:$about")
        fi
    done
    (( $#found )) && _describe convserve found
    (( $#folders )) && compadd -S '' -a folders
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _convserve convserve
"""

_FISH = r"""# Completion of convserve in fish.
function __convserve_words
    set -l words (commandline -opc)
    set -l begun (commandline -ct)
    for line in (convserve completion words (count $words) $words "$begun" 2>/dev/null)
        if string match -q ':files*' -- $line
            # Behind --option= the path begins; fish wants the whole word.
            set -l word (string unescape -- "$begun"; or echo "$begun")
            set -l option (string match -r -- '^--[^=]*=' "$word")
            for path in (__fish_complete_path (string replace -- "$option" '' "$word"))
                echo -- "$option$path"
            end
        else
            echo $line
        end
    end
end
complete -c convserve -f -a '(__convserve_words)'
"""

_SCRIPTS: dict[Shell, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
# The package that loads a script of its folder when a command is completed for the first time.
_LOADER = Path("/usr/share/bash-completion/bash_completion")


class Place(NamedTuple):
    """script: the file that completes. starts: the file that a line of which loads it; None where
    the shell finds it by itself."""

    script: Path
    starts: Path | None


_ShellOption = Annotated[
    str | None,
    typer.Option(
        "--shell", metavar="bash|zsh|fish", help="The shell.", show_default="that of $SHELL"
    ),
]


def install(shell: _ShellOption = None, as_json: AsJson = False) -> None:
    """Let the shell complete commands, options, models and recipes of convserve."""
    chosen = _shell(shell)
    place = _place(chosen)
    with Progress("completion", 1, "tables"):
        table()  # so that the first TAB does not have to wait for it
    try:
        place.script.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place.script, _SCRIPTS[chosen].encode())
        if place.starts is not None:
            _load_from(place.starts, place.script)
    except OSError as error:
        _fail(f"{error.filename or place.script}: {error.strerror}")
    if as_json:
        started = None if place.starts is None else str(place.starts)
        typer.echo(json_text({"shell": chosen, "script": str(place.script), "loaded_by": started}))
        return
    typer.echo(f"{place.script}: completion for {chosen}; it works in the next {chosen}")


def show(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
    as_json: AsJson = False,
) -> None:
    """Print the script that `install` writes."""
    script = _SCRIPTS[_shell(shell, "SHELL")]
    typer.echo(json_text({"shell": shell, "script": script}) if as_json else script, nl=as_json)


def _shell(given: str | None, option: str = "--shell") -> Shell:
    chosen = one_of(given, SHELLS, option)
    if chosen is not None:
        return chosen
    name = Path(os.environ.get("SHELL", "")).name
    found = next((shell for shell in SHELLS if shell == name), None)
    if found is None:
        _fail(f"the shell {name or 'of $SHELL'} is none of {', '.join(SHELLS)}; --shell names one")
    return found


def _place(shell: Shell) -> Place:
    try:
        home = Path.home()
    except RuntimeError:
        _fail("this user has no home to install it in; `convserve completion show` prints it")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    if shell == "fish":
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return Place(settings / "fish" / "completions" / "convserve.fish", None)
    if shell == "bash" and _LOADER.exists():
        return Place(data / "bash-completion" / "completions" / "convserve", None)
    if shell == "bash":
        return Place(data / "convserve" / "completion.bash", home / ".bashrc")
    starts = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
    return Place(data / "convserve" / "completion.zsh", starts)


def _load_from(starts: Path, script: Path) -> None:
    """Adds the line that loads the script, once."""
    line = f"[ -r {shlex.quote(str(script))} ] && . {shlex.quote(str(script))}  # convserve"
    former = starts.read_bytes() if starts.exists() else b""
    if line.encode() in former.splitlines():
        return
    gap = b"" if not former or former.endswith(b"\n") else b"\n"
    write_whole(starts, former + gap + line.encode() + b"\n")


def _fail(reason: str) -> NoReturn:
    typer.echo(f"convserve completion: {one_line(reason)}", err=True)
    raise typer.Exit(1)


app = grouped(
    "completion",
    "Let the shell complete commands, options and names.",
    install=install,
    show=show,
)
