"""The source behind an address."""

from pathlib import Path

from scoring.errors import ScoringError
from scoring.sources.folder import Folder
from scoring.sources.item import Source
from scoring.sources.remote import Remote
from scoring.sources.shards import SHARD_SUFFIX, Shards
from serving.base.folders import IMAGE_SUFFIXES
from serving.base.storage.address import is_url


def open_source(address: str, shards: bool = False) -> Source:
    """The images below a folder or URL. Raises ScoringError where there is none, or where its
    package is missing.

    shards: they lie in tar files there.
    """
    if not address:
        raise ScoringError("expected a folder of images or a URL, got nothing")
    endings = (SHARD_SUFFIX,) if shards else IMAGE_SUFFIXES
    files = Remote(address, endings) if is_url(address) else Folder(Path(address), endings)
    return Shards(files) if shards else files
