"""The two ways in which scoring fails: the job, or one image of it."""


class ScoringError(Exception):
    """A job that cannot start or go on; the text says why, and where."""


class ImageFault(Exception):
    """An image that has no answer; the text is the error of its row."""
