"""Images behind a URL: object stores, and web servers that show their folders."""

from collections.abc import Iterator

from scoring.errors import ImageFault, ScoringError
from scoring.sources.item import Item, LeftOut
from serving.base.folders import is_passed_over
from serving.base.storage.address import without_secrets
from serving.base.storage.messages import StorageError, Words
from serving.base.storage.store import Store
from serving.base.storage.systems import Access, check_known

# Folders in folders that are looked into, where a store has folders.
_DEPTH = 32
# Files of stores that tell of all at once, and take 1 KiB of memory for each.
_MOST_AT_ONCE = 1_000_000


class _Fault(Exception):
    """What a store raises here."""


_WORDS = Words(
    _Fault,
    anonymous="FSSPEC_S3_ANON=true, FSSPEC_GS_TOKEN=anon or AZURE_STORAGE_ANON=true",
    waited=f"{Access.timeout_seconds:g} s",
    extras="score,cloud",
)
# Of one file, while the store as such answers.
_OF_THE_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, StorageError)


class Remote:
    """The files below a URL with certain endings; credentials are the environment's.

    A URL of S3 or Google's store is listed page by page, so that memory does not grow with it.
    """

    reads = 32

    def __init__(self, url: str, endings: tuple[str, ...]) -> None:
        try:
            self.address = without_secrets(url).rstrip("/")
            check_known(url.partition("://")[0].lower(), _WORDS.extras)
        except (ValueError, StorageError) as error:
            raise ScoringError(str(error)) from error
        self.left_out = LeftOut()
        self._endings = endings
        self._store = Store(Access(), _WORDS)
        # The name of a file that could be read.
        self._readable = ""

    def items(self) -> Iterator[Item]:
        """Every file, in the order of the store."""
        try:
            for entry in self._store.files(self.address, _DEPTH, _MOST_AT_ONCE):
                name = entry.address.removeprefix(f"{self.address}/")
                if any(map(is_passed_over, name.split("/"))):
                    continue
                if entry.is_folder:
                    if entry.problem:
                        raise ScoringError(entry.problem)
                elif name.lower().endswith(self._endings):
                    yield Item(name.encode(errors="surrogatepass"), entry.size, entry.changed)
                else:
                    self.left_out.add(entry.name)
        except _Fault as error:
            raise ScoringError(str(error)) from error

    def read(self, item: Item, start: int, end: int) -> bytes:
        """`Source.read`."""
        name = (item.shard or item.name).decode(errors="surrogatepass")
        address = f"{self.address}/{name}"
        try:
            found = self._store.read(address, start, end) if end > start else b""
        except _Fault as error:
            cause = error.__cause__
            if isinstance(cause, _OF_THE_FILE):
                raise ImageFault(str(error)) from error
            if isinstance(cause, PermissionError) and self._lets_in(address):
                raise ImageFault(str(error)) from error
            raise ScoringError(str(error)) from error
        self._readable = address
        return found

    def _lets_in(self, refused: str) -> bool:
        """Whether the store refuses one file alone: credentials that have run out would make every
        image that is left a failed one."""
        if self._readable in ("", refused):
            return True
        try:
            self._store.read(self._readable, 0, 1)
        except _Fault:
            return False
        return True
