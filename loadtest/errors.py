"""The error that ends a load test with one line."""


class LoadTestError(Exception):
    """The test cannot be run or reported; the message says why."""
