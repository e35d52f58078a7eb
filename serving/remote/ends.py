"""The descriptors and the parent of an engine process."""

import json
import os
import sys
from typing import NamedTuple

from serving.base.machine.children import end_with_parent


class Ends(NamedTuple):
    """The descriptors that an engine process gets."""

    data: int
    control: int
    flight: int


def follow_parent() -> Ends:
    """Called in the engine process: ends it with its front, however that ends. Returns its
    descriptors."""
    *ends, parent = json.loads(sys.argv[3])
    end_with_parent(parent)
    for file in ends:
        os.set_inheritable(file, False)
    return Ends(*ends)
