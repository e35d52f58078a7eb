"""Random changes of valid requests: of bytes, of the fields of protocol buffers, of JSON, of HTTP
heads. Everything is drawn from a `random.Random`, so that its seed tells the request."""

import copy
import json
import random
from collections.abc import Callable, MutableMapping, MutableSequence
from typing import Any

# Whole numbers at and beyond the ends of the types that are in use.
EXTREMES = tuple(
    sign * ((1 << bits) + more)
    for bits in (0, 7, 8, 15, 16, 31, 32, 53, 63, 64, 70, 300)
    for more in (-1, 0, 1)
    for sign in (1, -1)
)
# Bytes of a request, at most: changes repeat and insert.
MOST_BYTES = 256 << 10
_DEEP = 2000
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Change = Callable[[random.Random, bytes], bytes]


def bits(rng: random.Random, data: bytes) -> bytes:
    """Turns some bits over."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if found else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def values(rng: random.Random, data: bytes) -> bytes:
    """Puts bytes that matter to many formats in place of some."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 2, 4)) if found else 0):
        begin = rng.randrange(len(found))
        value = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\0" * 4, b"\x7f\xff"))
        found[begin : begin + len(value)] = value
    return bytes(found)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Takes an end, a beginning or a part away."""
    begin, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice((data[:begin], data[begin:], data[:begin] + data[end:]))


def insert(rng: random.Random, data: bytes) -> bytes:
    """Puts random bytes, or a part of itself, somewhere."""
    place = rng.randrange(len(data) + 1)
    begin, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    part = rng.choice((rng.randbytes(rng.randrange(1, 64)), data[begin:end], data[:end]))
    return data[:place] + part * rng.choice((1, 1, 2, 100)) + data[place:]


BYTES: tuple[Change, ...] = (bits, values, cut, insert)


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to three changes of bytes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(BYTES)(rng, data)[:MOST_BYTES]
    return data


def varint(value: int) -> bytes:
    """As protocol buffers write it, of any length; of negative ones the lower 64 bits."""
    value &= (1 << max(64, value.bit_length())) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """(number, wire type, content) of each field; raises IndexError where it is no message."""
    found = []
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            end = _read_varint(data, position)[1]
        elif kind == _LENGTH:
            size, position = _read_varint(data, position)
            end = position + size
        elif kind in (_FIXED32, _FIXED64):
            end = position + (4 if kind == _FIXED32 else 8)
        else:
            raise IndexError
        if end > len(data) or tag < 8:
            raise IndexError
        found.append((tag >> 3, kind, data[position:end]))
        position = end
    return found


def _joined(fields: list[tuple[int, int, bytes]]) -> bytes:
    parts = []
    for number, kind, content in fields:
        length = varint(len(content)) if kind == _LENGTH else b""
        parts.append(varint(number << 3 | kind) + length + content)
    return b"".join(parts)


def changed_message(rng: random.Random, data: bytes, depth: int = 0) -> bytes:
    """One change of the fields of a serialised message, or of one inside it: doubled, taken away,
    moved, of another number or type, of an extreme value or length; or of its bytes."""
    try:
        fields = _fields(data)
    except IndexError:
        fields = []
    if not fields or rng.random() < 0.2:
        return changed_bytes(rng, data)
    place = rng.randrange(len(fields))
    number, kind, content = fields[place]
    if kind == _LENGTH and content and depth < 6 and rng.random() < 0.6:
        fields[place] = number, kind, changed_message(rng, content, depth + 1)
        return _joined(fields)[:MOST_BYTES]
    what = rng.randrange(7)
    if what == 0:
        fields[place:place] = [fields[place]] * rng.choice((1, 2, 50, 1000))
    elif what == 1:
        del fields[place]
    elif what == 2:
        rng.shuffle(fields)
    elif what == 3:
        fields[place] = rng.choice((1, 2, 3, 15, 16, 19000, (1 << 29) - 1)), kind, content
    elif what == 4:
        fields[place] = number, rng.randrange(8), content
    elif what == 5:
        extreme = varint(rng.choice(EXTREMES))
        fields[place] = number, _VARINT, extreme + rng.choice((b"", b"\x80" * 20))
    else:
        # A length that is not that of what follows.
        lying = varint(number << 3 | _LENGTH) + varint(abs(rng.choice(EXTREMES)))
        return _joined(fields[:place]) + lying + content + _joined(fields[place + 1 :])
    return _joined(fields)[:MOST_BYTES]


def _odd_value(rng: random.Random) -> Any:
    return rng.choice(
        (
            None,
            True,
            "",
            "a",
            "\0",
            "\ud800",
            "a" * 5000,
            "../../etc/passwd",
            [],
            {},
            [[]],
            0.5,
            1e308,
            float("nan"),
            float("-inf"),
            10**400,
            rng.choice(EXTREMES),
            str(rng.choice(EXTREMES)),
            [rng.choice(EXTREMES)] * rng.choice((1, 4, 70)),
        )
    )


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    keys: Any = ()
    if isinstance(document, MutableMapping):
        keys = list(document)
    elif isinstance(document, MutableSequence):
        keys = range(len(document))
    found = [(document, key) for key in keys]
    for key in keys:
        found += _places(document[key])
    return found


def changed_document(rng: random.Random, document: Any) -> Any:
    """One or two changes of a JSON document: other values, members taken away, doubled, nested or
    under another name."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2))):
        places = _places(document)
        if not places:
            return _odd_value(rng)
        # Tensors of many elements must not be all that is ever changed.
        inner = [place for place in places if isinstance(place[1], str)]
        holder, key = rng.choice(inner if inner and rng.random() < 0.8 else places)
        what = rng.randrange(6)
        if what <= 2:
            holder[key] = _odd_value(rng)
        elif what == 3:
            del holder[key]
        elif what == 4:
            holder[key] = [copy.deepcopy(holder[key])] * rng.choice((1, 2, 50))
        elif isinstance(holder, MutableMapping):
            holder[rng.choice((key + " ", key.upper(), "", "\0", "__proto__"))] = holder[key]
        else:
            holder.append(holder[key])
    return document


def changed_json(rng: random.Random, document: Any) -> bytes:
    """A JSON document with changes of its structure, or of its text."""
    what = rng.random()
    if what < 0.6:
        return json.dumps(changed_document(rng, document)).encode()[:MOST_BYTES]
    text = json.dumps(document).encode()
    if what < 0.8:
        return changed_bytes(rng, text)
    begin = rng.randrange(len(text) + 1)
    part = rng.choice(
        (
            b"[" * _DEEP,
            b'{"a":' * _DEEP,
            b"9" * 5000,
            b"1e999",
            b'"\\ud800"',
            b"\xff\xfe",
            b"//",
            b",",
        )
    )
    return text[:begin] + part + text[begin:]


def changed_head(rng: random.Random, head: bytes) -> bytes:
    """An HTTP head with lines that are changed, doubled, taken away or too long."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    place = rng.randrange(len(lines))
    what = rng.randrange(6)
    if what == 0:
        lines[place] = changed_bytes(rng, lines[place])
    elif what == 1:
        lines.insert(place, lines[rng.randrange(len(lines))])
    elif what == 2:
        del lines[place]
    elif what == 3:
        name, _, _ = lines[place].partition(b":")
        value = rng.choice(
            (b"", b"-1", b"9" * 30, b"a" * 20_000, b"\0", b"chunked", b"gzip", b"\xff")
        )
        lines[place] = name + b": " + value
    elif what == 4:
        names = (
            b"Content-Length",
            b"Transfer-Encoding",
            b"Expect",
            b"Upgrade",
            b"Content-Encoding",
        )
        values = (
            b"5",
            b"-5",
            b"chunked",
            b"gzip",
            b"100-continue",
            b"h2c",
            b"identity",
            b"deflate, br",
        )
        lines.insert(place, rng.choice(names) + b": " + rng.choice(values))
    else:
        lines += [b"X-%d: a" % number for number in range(rng.choice((1, 100, 2000)))]
    end = rng.choice((b"\r\n\r\n",) * 6 + (b"\n\n", b"\r\n", b""))
    return rng.choice((b"\r\n", b"\r\n", b"\r\n", b"\n")).join(lines) + end
