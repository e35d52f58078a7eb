"""`convserve keys new | list | revoke`."""

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from serving.base.command import AsJson, grouped
from serving.base.machine.terminal import is_quiet, next_step
from serving.base.text import NotText, read_utf8
from serving.cli.output import fail, print_json, say, warn
from serving.cli.table import print_table
from serving.server.access.followed import BadFile, read_checked
from serving.server.access.keys import (
    ApiKey,
    check_client,
    digest_of,
    new_key,
    parse_keys,
    parse_time,
    time_text,
    with_key,
    without_keys,
)

_File = Annotated[Path, typer.Argument(help="The server's --api-keys.")]


def new(
    file: _File,
    client: Annotated[str, typer.Argument(help="Whose key it is.")],
    expires: Annotated[
        str, typer.Option(help="never, a day (2027-01-31) or a time (2027-01-31T12:00:00Z).")
    ] = "never",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: the file has its SHA-256 alone.

    A client may have two keys at a time: make the second, let the client change over, revoke the
    first by its id.
    """
    now = time.time()
    try:
        check_client(client)
        until = parse_time(expires, "--expires: ")
    except BadFile as error:
        fail(str(error))
    if until <= now:
        fail(f"--expires: expected a time to come, got {expires}")
    secret = new_key()
    key = ApiKey(client, digest_of(secret), until)
    try:
        with _alone(file):
            text = _text(file) if file.exists() else ""
            _write(file, with_key(text, key, now))
    except BadFile as error:
        fail(f"{file}: {error}")
    if as_json:
        print_json({"client": client, "id": key.id, "expires": time_text(until), "key": secret})
        return
    if not is_quiet():
        warn(f"key {key.id} of {client}, until {time_text(until)}; send it as x-api-key")
    say(secret)
    next_step("serve", "--model-repository", "FOLDER", "--api-keys", file)


def list_keys(
    file: _File,
    as_json: AsJson = False,
) -> None:
    """List clients, ids and expiry of keys. The keys themselves are in no file."""
    try:
        keys = read_checked(file, parse_keys)
    except BadFile as error:
        fail(str(error))
    now = time.time()
    lines = [
        {
            "client": key.client,
            "id": key.id,
            "expires": time_text(key.expires),
            "state": "good" if key.expires > now else "expired",
        }
        for key in keys
    ]
    if as_json:
        print_json(lines)
    else:
        columns = ["client", "id", "expires", "state"]
        print_table(columns, [[line[column] for column in columns] for line in lines])
        next_step("serve", "--model-repository", "FOLDER", "--api-keys", file)


def revoke(
    file: _File,
    name: Annotated[str, typer.Argument(help="A client, for all its keys, or the id of one.")],
    as_json: AsJson = False,
) -> None:
    """Take keys out of the file. A server that follows it refuses them a second later."""
    try:
        with _alone(file):
            text, gone = without_keys(_text(file), name)
            _write(file, text)
    except BadFile as error:
        fail(f"{file}: {error}")
    if as_json:
        print_json([{"client": key.client, "id": key.id} for key in gone])
        return
    for key in gone:
        say(f"revoked {key.id} of {key.client}")
    next_step("keys", "list", file)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Has the folder of a file to itself, from reading to writing: of two commands at once, the
    later would bring back a key that the other has taken out. Raises BadFile."""
    try:
        folder = os.open(file.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BadFile(f"cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _text(file: Path) -> str:
    """Raises BadFile."""
    try:
        text = read_utf8(file)
    except OSError as error:
        raise BadFile(str(error.strerror)) from error
    except NotText as error:
        raise BadFile(error.reason) from error
    parse_keys(text)
    return text


def _write(file: Path, text: str) -> None:
    """Puts a new file in the place of the old in one step: a server never reads half of one. It has
    the old one's mode and, where it may be given away, its owner, whose server reads it. Raises
    BadFile."""
    place = file.resolve()
    try:
        old = place.stat() if place.exists() else None
        mode = 0o600 if old is None else stat.S_IMODE(old.st_mode)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as written:
            try:
                written.write(text)
                written.flush()
                os.fsync(written.fileno())
                if old is not None:
                    with contextlib.suppress(PermissionError):
                        os.fchown(written.fileno(), old.st_uid, old.st_gid)
                os.fchmod(written.fileno(), mode)
                Path(written.name).replace(place)
            except BaseException:
                Path(written.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BadFile(f"cannot be written: {error.strerror}") from error


app = grouped(
    "keys",
    "Make, list and revoke the API keys of a file that a server follows (--api-keys).",
    new=new,
    list=list_keys,
    revoke=revoke,
)
