"""The glossary has a form that a test can read: `**word**: meaning`, a line each, in order."""

import re

from tests.docs.documents import text_of

ENTRY = re.compile(r"\*\*([^*]+)\*\*: (.+)")


def entries() -> list[tuple[str, str]]:
    _, _, body = text_of("docs/glossary.md").partition("colon.\n")
    lines = [line for line in body.splitlines() if line]
    found = [ENTRY.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, found, strict=True) if match is None] == []
    return [(match[1], match[2]) for match in found if match]


def test_every_line_is_a_word_with_its_meaning() -> None:
    assert len(entries()) > 100
    assert [word for word, meaning in entries() if not meaning.endswith(".")] == []


def test_words_are_in_order_and_each_has_one_meaning() -> None:
    words = [word.lower() for word, _ in entries()]
    assert words == sorted(words)
    assert len(set(words)) == len(words)
