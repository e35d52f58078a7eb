"""One repository behind a URL, as a folder here that follows it."""

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig
from serving.base.machine.priority import fetches_give_way
from serving.base.metrics import EngineMetrics
from serving.base.storage.messages import StorageError, Words, in_one_line
from serving.base.storage.store import Store
from serving.base.storage.systems import Access
from serving.repository.layout import can_be_folder
from serving.repository.model_config import (
    CONFIG_FILE,
    VersionPolicy,
    read_proto,
    version_policy_of,
)
from serving.repository.places.download import Download
from serving.repository.places.folders import ModelFolders
from serving.repository.places.kept import Kept
from serving.repository.places.objects import DEPTH, MAX_OBJECTS, RemoteModel, mark, models_in
from serving.repository.places.state import Cache, HeldModel, HeldVersion, State, Waits

logger = logging.getLogger(__name__)

_WORDS = Words(
    StorageError,
    anonymous="FSSPEC_S3_ANON=true, FSSPEC_GS_TOKEN=anon or AZURE_STORAGE_ANON=true",
    waited="--repository-timeout-seconds",
    extras="cloud",
)
# Requests in a row that may fail. With more, a start with a dead store takes longer to serve from
# the cache; with fewer, a store that cuts connections is given up sooner.
_ATTEMPTS = 4
# At the level debug, which a caller may set, these tell the headers of requests.
for _name in (
    "botocore", "aiobotocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "msal", "fsspec",
    "urllib3",
):  # fmt: skip
    logging.getLogger(_name).setLevel(logging.WARNING)
# Stands for the listing where models are told by their names.
_LISTING = ""


class FetchedRepository:
    """Follows a URL.

    folder: its models, in the layout of a repository.
    problems: why the newest of a model could not be fetched, by name.
    looked: a fetch of all models has ended, well or not.
    unreachable: why the repository could not be listed; empty where it could.
    """

    def __init__(self, address: str, cache: Cache, metrics: EngineMetrics) -> None:
        self.address = address
        self.problems: dict[str, str] = {}
        self.unreachable = ""
        self.looked = False
        self._place = cache.place(address)
        self.folder = self._place.models
        self._folders = ModelFolders(self.folder)
        self._stopped = threading.Event()
        self._kept = Kept(cache, self._stopped.is_set)
        access = Access(timeout_seconds=cache.timeout_seconds, attempts=_ATTEMPTS, redirects=False)
        self._store = Store(access, _WORDS)
        self._download = Download(
            self._store, self._kept, metrics.fetched_bytes.labels(address).inc
        )
        self._opened = False
        self._waits = Waits()
        self._one = threading.Lock()
        self._began = time.time()
        self._seconds = metrics.fetch_seconds.labels(address)
        self._failures = metrics.fetch_failures.labels(address)
        metrics.listing_age.labels(address).set_function(self._age)

    def _age(self) -> float:
        """Seconds since the last good listing; since this began where there was none."""
        return max(0.0, time.time() - (self._place.listed_at() or self._began))

    def close(self) -> None:
        """Gives up what is fetched at the moment, and fetches nothing more."""
        self._stopped.set()
        self._store.close()

    def fetch(self, only: str | None = None, *, contents: bool = True, older: bool = False) -> None:
        """Brings the folder up to date. What goes wrong is in `problems` and `unreachable` then; a
        model that could not be fetched whole stays as it was. Blocking.

        only: the name of one model, which is tried even where it failed just now.
        contents: else models are only listed; those that are new have a folder and nothing in it.
        older: fetches one more version of that model, the newest that is not selected.
        """
        with self._one:
            if only is None and not self._waits.over(_LISTING):
                return
            began = time.monotonic()
            try:
                self._follow(only, contents=contents, older=older)
            except Exception as error:
                if not isinstance(error, StorageError | OSError):  # what nobody foresaw
                    logger.exception("repository not fetched", extra={"repository": self.address})
                self._lost(_reason(error))
                if only is not None and self._folders.has(only):
                    self.problems[only] = self.unreachable
            else:
                self._waits.fetched(_LISTING)
                self.unreachable = ""
            self.looked = self.looked or only is None
            self._seconds.inc(time.monotonic() - began)

    def _lost(self, reason: str) -> None:
        self._failures.inc()
        self._waits.failed(_LISTING)
        if reason != self.unreachable and not self._stopped.is_set():
            age = None if self._place.listed_at() is None else round(self._age())
            logger.warning(
                "repository cannot be fetched; what is in the cache is served",
                extra={"repository": self.address, "reason": reason, "seconds_old": age},
            )
        self.unreachable = reason

    def _follow(self, only: str | None, *, contents: bool, older: bool) -> None:
        """Raises StorageError where the repository cannot be listed, OSError."""
        found = models_in(self.address, self._store.tree(self.address, MAX_OBJECTS, DEPTH))
        if not found:
            # Stores without real folders list nothing of one that is not there.
            raise StorageError(f"{self.address}: holds no model")
        self._kept.open()
        with self._place.opened(self._stopped.is_set) as state:
            self._check(state)
            for name in sorted(state.models.keys() | self.problems.keys() | self._folders.names()):
                if name not in found and only in (None, name):
                    self._remove(state, name)
            wanted = [n for n in found if contents and only in (None, n)]
            for name in found.keys() - set(wanted):
                self._announce(found[name])
        for name in wanted:
            self._update(state, found[name], again=only is not None, older=older)
            if self._stopped.is_set():
                raise StorageError("given up, as this process ends")
        self._place.listed()

    def _check(self, state: State) -> None:
        """Removes what killed processes have left and, the first time, damaged versions."""
        self._folders.open()
        if self._opened:
            return
        from fsspec.asyn import get_loop

        get_loop().call_soon_threadsafe(fetches_give_way)
        with self._kept.pinned():
            for name, model in state.models.items():
                whole = {v: h for v, h in model.versions.items() if self._kept.has(h.digest)}
                if len(whole) < len(model.versions):
                    model.versions, model.mark = whole, ""
                    self._place.save(state)
                    if self._folders.has(name):
                        self._folders.link(name, self._contents(whole))
        self._opened = True

    def _contents(self, versions: Mapping[int, HeldVersion]) -> dict[int, Path]:
        return {version: self._kept.path(held.digest) for version, held in versions.items()}

    # One model.

    def _update(self, state: State, model: RemoteModel, *, again: bool, older: bool) -> None:
        """Brings a model up to date, or notes why not. state: as it was a moment ago."""
        files = {f"{v}/{name}": f for v, held in model.versions.items() for name, f in held.items()}
        now = mark({**files, **model.beside})
        if self._is_here(state, model.name, now) and not (older or model.problem):
            self.problems.pop(model.name, None)
            return
        if not again and not self._waits.over(model.name, now):
            return
        try:
            if model.problem:
                raise StorageError(model.problem)
            with self._place.opened(self._stopped.is_set) as state, self._kept.pinned():
                # Another process may have fetched it meanwhile.
                if older or not self._is_here(state, model.name, now):
                    self._bring(state, model, now, older=older)
        except (StorageError, OSError) as error:
            self._failures.inc()
            self._waits.failed(model.name, now)
            self.problems[model.name] = _reason(error)
        else:
            self._waits.fetched(model.name)
            self.problems.pop(model.name, None)

    def _is_here(self, state: State, name: str, now: str) -> bool:
        """Whether all of a model that is selected is here, as the store lists it."""
        held = state.models.get(name, HeldModel())
        selected = (v.digest for v in held.versions.values() if v.selected)
        return (
            held.mark == now
            and self._folders.has(name)
            and all(self._kept.path(digest).is_dir() for digest in selected)
        )

    def _bring(self, state: State, model: RemoteModel, now: str, *, older: bool) -> None:
        """Fetches what is new of a model, and lets it take its place. Where a version cannot be
        fetched those that serve stay, and with them their config. Raises StorageError, OSError."""
        held = state.models.get(model.name, HeldModel())
        folder = self.folder / model.name
        marks = {name: mark({name: file}) for name, file in model.beside.items()}
        fresh = {
            name: file
            for name, file in model.beside.items()
            if held.beside.get(name) != marks[name] or not (folder / name).is_file()
        }
        gone = held.beside.keys() - marks.keys()
        with self._kept.staging(sum(file.size for file in fresh.values())) as staged:
            for name, file in fresh.items():
                (staged / name).parent.mkdir(exist_ok=True)
                self._download.object(file, staged / name)
            self._download.check_unchanged(fresh)
            config = (staged if CONFIG_FILE in fresh else folder) / CONFIG_FILE
            policy = _policy(config) if CONFIG_FILE in model.beside else VersionPolicy()
            versions, failures = self._versions(model, held, policy, older=older)
            if failures and ((held.versions and (fresh or gone)) or not versions):
                raise StorageError("; ".join(failures))
            if fresh or gone or not self._folders.has(model.name):
                for name in marks.keys() - fresh.keys():
                    (staged / name).parent.mkdir(exist_ok=True)
                    shutil.copy2(folder / name, staged / name)
                self._folders.put(model.name, staged, self._contents(versions))
            else:
                self._folders.link(model.name, self._contents(versions))
        state.models[model.name] = HeldModel(
            mark="" if failures else now,
            beside=marks,
            beside_bytes=sum(file.size for file in model.beside.values()),
            versions=versions,
        )
        self._place.save(state)
        logger.info("model fetched", extra={"model": model.name, "repository": self.address})
        if failures:
            raise StorageError("; ".join(failures))

    def _versions(
        self, model: RemoteModel, held: HeldModel, policy: VersionPolicy, *, older: bool
    ) -> tuple[dict[int, HeldVersion], list[str]]:
        """The versions that are whole, fetched where they are selected and new; and why others
        could not be."""
        selected = policy.select(list(model.versions))
        whole: dict[int, HeldVersion] = {}
        failures: list[str] = []
        for version, files in sorted(model.versions.items(), reverse=True):
            before, now = held.versions.get(version), mark(files)
            if before is not None and before.mark == now and self._kept.has(before.digest):
                chosen = before.model_copy(update={"selected": version in selected})
                whole[version] = chosen
                continue
            # An older version is better than none, where the newest cannot be had.
            instead = failures and policy.latest and not whole and not held.versions
            if version in selected or older or instead:
                older = older and version in selected
                try:
                    digest = self._download.version(files)
                except StorageError as error:
                    failures.append(str(error))
                else:
                    whole[version] = HeldVersion(mark=now, digest=digest, selected=True)
        if failures:
            # Those that served before go on.
            for version, before in held.versions.items():
                if before.selected and not (version in whole and whole[version].selected):
                    whole[version] = before
        return whole, failures

    def _announce(self, model: RemoteModel) -> None:
        """Gives a model that is new a folder, whose versions lead nowhere yet."""
        if not model.problem and not self._folders.has(model.name):
            nowhere = dict.fromkeys(model.versions, self._kept.path("not-fetched"))
            with self._kept.staging() as staged:
                self._folders.put(model.name, staged, nowhere)

    def _remove(self, state: State, name: str) -> None:
        self.problems.pop(name, None)
        self._waits.fetched(name)
        if state.models.pop(name, None) is not None:
            self._place.save(state)
        if can_be_folder(name):
            self._folders.remove(name)


def _policy(config: Path) -> VersionPolicy:
    """The versions that a config selects. One that cannot be read is refused when it is loaded."""
    try:
        return version_policy_of(config, read_proto(config) or pb.ModelConfig())
    except InvalidModelConfig:
        return VersionPolicy()


def _reason(error: Exception) -> str:
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be written to the cache: {error.strerror or error}"
    return in_one_line(error)
