"""Text files of users: the encodings that are read, and the line that is not. Messages: short."""

import codecs
import pickle
from pathlib import Path

import pytest

from serving.base.errors import EngineError, EngineUnavailable, ModelLoadError
from serving.base.text import NotText, lines_of, one_line, read_utf8, summary


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.txt"


def test_byte_order_mark_is_passed_over(file: Path) -> None:
    file.write_bytes(codecs.BOM_UTF8 + "grün\n".encode())
    assert read_utf8(file) == "grün\n"


def test_lines_end_as_on_any_system_and_nowhere_else(file: Path) -> None:
    assert lines_of("a\r\n\r\nb\u2028c\n") == ("a", "", "b\u2028c")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rot\r\nblau\r\ngrün\r\n".encode("latin-1"), "line 3: byte 0xfc is not UTF-8"),
        ("rot\n".encode("utf-16"), "line 1: UTF-16, expected UTF-8"),
        ("rot\n".encode("utf-32"), "line 1: UTF-32, expected UTF-8"),
        ("rot\n".encode("utf-16-le"), "line 1: a zero byte"),
        (b"rot\nb\0\n", "line 2: a zero byte"),
        (b"cut \xc3", "line 1: byte 0xc3 is not UTF-8"),
    ],
)
def test_another_encoding_is_named_with_file_and_line(
    file: Path, content: bytes, said: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(NotText, match=rf"list\.txt: {said}"):
        read_utf8(file)


def test_one_line_keeps_beginning_and_end() -> None:
    text = "model.onnx: cannot load:\n  " + "trace\n" * 200 + "the cause"
    shown = one_line(text)
    assert len(shown) <= 300
    assert shown.isprintable()
    assert shown.startswith("model.onnx: cannot load: trace")
    assert shown.endswith("the cause")


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_summary_shares_its_line_among_the_reasons(count: int) -> None:
    reasons = [f"engine {index}: " + "x" * 500 for index in range(count)]
    assert len(summary("none: ", reasons)) <= 300
    assert "short" in summary("none: ", ["short", *reasons[:1]])


@pytest.mark.parametrize("kind", [ModelLoadError, EngineUnavailable, EngineError])
def test_errors_show_one_line_and_keep_the_whole(kind: type[ModelLoadError]) -> None:
    message = "first\n" + "x" * 1000
    error = pickle.loads(pickle.dumps(kind(message)))
    assert len(str(error)) <= 300
    assert "\n" not in str(error)
    assert kind(message).detail == message
