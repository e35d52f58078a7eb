from pathlib import Path

from loadtest.cli.options import contents, weighted


def test_payload_options_may_name_their_model() -> None:
    found = contents(["a", "b"], ["a=one", "two"], None, None, None, None, 1)
    assert found["a"].images == Path("one")
    assert found["b"].images == Path("two")
    assert weighted(["a=3", "b"]) == {"a": 3.0, "b": 1.0}
