"""Addresses of data: local paths and URLs, and the stores behind the latter.

A recipe is copied into the run folder and shown in reports, so that one that holds a secret is
refused, and the message does not repeat it.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from serving.base.storage.address import SCHEME, without_secrets
from training.recipes.fields import PositiveInt, Strict

Address = Annotated[str, AfterValidator(without_secrets)]
Url = Annotated[str, Field(pattern=SCHEME), AfterValidator(without_secrets)]


class Storage(Strict):
    """How a store behind a URL is reached; credentials come from the environment.

    endpoint_url: address of an S3- or GCS-compatible store.
    region: of S3.
    account_name: of Azure.
    anon: asks without credentials, for public data.
    timeout_seconds: longest wait for one answer, of at most 8 MiB. Larger bears a slower store,
        smaller notices a dead one sooner.
    attempts: requests in a row that may fail before a build ends. A store that hangs ends it after
        so many times `timeout_seconds`; the log tells of it after 20 s.
    """

    endpoint_url: Url | None = None
    region: str | None = None
    account_name: str | None = None
    anon: bool = False
    timeout_seconds: Annotated[float, Field(gt=0.0, le=3600.0)] = 60.0
    attempts: PositiveInt = 6
