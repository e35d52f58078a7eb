"""What ends a load test with one clear line."""


class LoadTestError(Exception):
    """The test cannot be run, or not be reported; the message says why."""
