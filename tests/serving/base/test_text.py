"""Text that people write is read by one rule, and messages stay short."""

import pickle
from pathlib import Path

import pytest

from serving.base.errors import EngineError, EngineUnavailable, ModelLoadError
from serving.base.text import NotText, lines_of, one_line, read_utf8, summary


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfred\r\ngr\xc3\xbcn\n")
    assert lines_of(read_utf8(tmp_path / "labels.txt")) == ("red", "grün")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("red\ngrün\n".encode("latin-1"), "line 2: byte 0xfc is not UTF-8"),
        ("red\n".encode("utf-16"), "line 1: UTF-16"),
        ("red\n".encode("utf-32"), "line 1: UTF-32"),
        ("red\n".encode("utf-16-le"), "line 1: a zero byte"),
        ("red\n".encode("utf-16-be"), "line 1: a zero byte"),
    ],
)
def test_another_encoding_is_named_with_file_and_line(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(NotText, match=rf"labels\.txt: cannot be read: {said}"):
        read_utf8(tmp_path / "labels.txt")


def test_lines_end_where_files_end_them() -> None:
    assert lines_of("") == ()
    assert lines_of("a\n\nb") == ("a", "", "b")
    assert lines_of("a\u2028b\x0bc\n") == ("a\u2028b\x0bc",)


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
