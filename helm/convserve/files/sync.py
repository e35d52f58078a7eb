"""Brings archives of models into a folder: sync.py ARCHIVES.json FOLDER.

An archive is taken only with the SHA-256 that it is listed with, so what runs is what was meant,
whatever the server that it comes from holds by then.
"""

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import IO

_CHUNK = 1 << 20


def fetch(url: str, sha256: str, into: IO[bytes]) -> None:
    """Copies an archive; ends the process where it is not the one that was meant."""
    request = urllib.request.Request(url)
    authorization = os.environ.get("SYNC_AUTHORIZATION")
    if authorization:
        # Not sent on to another host by a redirect, which urllib would do with a plain header.
        request.add_unredirected_header("Authorization", authorization)
    digest = hashlib.sha256()
    with urllib.request.urlopen(request, timeout=60) as response:
        while chunk := response.read(_CHUNK):
            digest.update(chunk)
            into.write(chunk)
    if digest.hexdigest() != sha256:
        sys.exit(f"{url}: its sha256 is {digest.hexdigest()}, expected {sha256}")


def unpack(archive: IO[bytes], folder: Path, url: str) -> None:
    """Writes the files of an archive; ends the process before anything would leave the folder.

    By hand, since the filters of tarfile are missing from some Pythons that we run on.
    """
    root = folder.resolve()
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:
        for entry in tar:
            target = (root / entry.name).resolve()
            if not target.is_relative_to(root) or not (entry.isfile() or entry.isdir()):
                sys.exit(f"{url}: {entry.name!r} is not a file or folder below the archive's root")
            content = tar.extractfile(entry)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(content, out)


def main() -> None:
    archives, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for archive in archives:
        url, sha256 = archive["url"], archive["sha256"]
        done = folder / f".{sha256}"
        if done.exists():
            sys.stdout.write(f"{url}: there already\n")
            continue
        # In the models' own volume: /tmp is small.
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                fetch(url, sha256, file)
            except OSError as error:
                sys.exit(f"{url}: cannot be fetched: {error}")
            file.seek(0)
            unpack(file, folder, url)
        done.touch()
        sys.stdout.write(f"{url}: unpacked\n")


if __name__ == "__main__":
    main()
