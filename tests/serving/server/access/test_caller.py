"""Who calls, as it may come into a log."""

from serving.server.access.caller import Caller


def test_credentials_are_not_in_what_a_caller_prints() -> None:
    caller = Caller("192.0.2.1", "Bearer secret", ("DNS:secret.example",), "secret")
    for text in (repr(caller), str(caller), f"{caller}", f"{[caller]}"):
        assert "192.0.2.1" in text
        assert "secret" not in text
