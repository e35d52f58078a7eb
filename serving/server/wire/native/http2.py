"""What callers may do on a connection of HTTP/2, whatever they call: the bounds that libnghttp2
keeps, and the settings that they are told."""

import ngh2

from serving.server.wire.interface import Limits
from serving.server.wire.native.call import WINDOW
from serving.server.wire.native.headers import HEADER_BYTES, MOST_FIELDS, MOST_HEADER_BYTES

# Bytes that all streams may send before anyone reads. Each stream has a window of its own, and what
# it brings is counted; a smaller one for all would let a stream that nobody reads hold up others.
CONNECTION_WINDOW = (1 << 31) - 1

CONFIGURATION = ngh2.Configuration(
    auto_window_update=False,
    # Events at once, and a second, beyond which the connection ends. Honest callers reset a call
    # whenever its deadline passes, thousands a second under load.
    stream_reset_rate_limit=(10_000, 1_000),
    glitch_rate_limit=(10_000, 330),
    max_continuations=8,
    max_outbound_ack=1_000,
    max_settings=32,
    max_inbound_header_list_size=MOST_HEADER_BYTES,
    max_inbound_header_count=MOST_FIELDS,
)


def settings_of(limits: Limits) -> dict[int, int]:
    """Those that a connection begins with."""
    return {
        ngh2.Setting.MAX_CONCURRENT_STREAMS: limits.streams,
        ngh2.Setting.INITIAL_WINDOW_SIZE: WINDOW,
        ngh2.Setting.MAX_HEADER_LIST_SIZE: HEADER_BYTES,
    }
