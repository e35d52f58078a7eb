"""The umbrella command: finds the sub-command, and imports only the package of that one."""

import difflib
import errno
import importlib
import importlib.metadata
import io
import os
import shutil
import signal
import sys
import textwrap
from typing import NoReturn

from convserve.commands import COMMANDS

# Exit status after Ctrl-C, as serving.base.command has it, which would bring typer.
INTERRUPTED = 130
# Errors of results that cannot be written.
_LOST = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Runs `convserve COMMAND ...`. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted
    by Ctrl-C."""
    # Processes that libraries start (multiprocessing, torch) would look for modules in the folder
    # in which this one was started; whoever filled it could put code there.
    os.environ["PYTHONSAFEPATH"] = "1"
    # gRPC's own lines beside ours: one for each handshake that fails, which strangers cause.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _open_streams()
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command itself looks out for it
        print("convserve: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.filename is not None or error.errno not in _LOST:
            raise
        _lost(error)
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            _lost(error)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # The command is over: Ctrl-C ends what libraries do at their end, without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())  # noqa: T201
        sys.exit(0 if arguments else 2)
    if arguments[:2] == ["completion", "words"]:
        from convserve.completing import answer

        answer(arguments[2:])
        return
    name, *rest = arguments
    if name == "--version":
        print(f"convserve {importlib.metadata.version('convserve')}")  # noqa: T201
        return
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        print(f"convserve: no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    module, _ = COMMANDS[name]
    try:
        importlib.import_module(module).app([name, *rest], prog_name="convserve")
    except ModuleNotFoundError as error:
        extra = {"training": "train", "scoring": "cpu,score"}.get(module.partition(".")[0], "cpu")
        package = str(error.name).partition(".")[0]
        print(  # noqa: T201
            f"convserve {name}: Python package {package!r} is not installed; "
            f"pip install 'convserve[{extra}]' brings it",
            file=sys.stderr,
        )
        sys.exit(1)


def _open_streams() -> None:
    """Makes the standard streams fit to be used. One that is closed would let the next file or
    socket take its number, and its lines with it; one of another encoding than UTF-8 would refuse
    names."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _lost(error: OSError) -> NoReturn:
    """Ends a command whose results cannot be written: the reader has gone, or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter would try again
    if error.errno != errno.EPIPE:
        print(f"convserve: standard output: {error.strerror}", file=sys.stderr)  # noqa: T201
    sys.exit(1)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    columns = max(shutil.get_terminal_size().columns, width + 20)
    lines = [
        textwrap.fill(
            text,
            columns,
            initial_indent=f"  {name:<{width}}  ",
            subsequent_indent=" " * (width + 4),
        )
        for name, (_, text) in COMMANDS.items()
    ]
    return "\n".join(
        ["usage: convserve COMMAND ...", "", *lines, "", "convserve COMMAND --help says more."]
    )


if __name__ == "__main__":
    main()
