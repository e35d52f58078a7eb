"""The store behind the addresses of a recipe."""

from serving.base.storage import store
from serving.base.storage.messages import Words
from serving.base.storage.systems import Access
from training.errors import DataError
from training.recipes.remote.storage import Storage

WORDS = Words(
    DataError,
    anonymous="storage.anon: true",
    waited="storage.timeout_seconds",
    extras="train,cloud",
)


class Store(store.Store):
    """Files behind paths and URLs, as a recipe's `storage` says. Every method raises DataError."""

    def __init__(self, config: Storage | None = None) -> None:
        super().__init__(Access(**dict(config or Storage())), WORDS)
