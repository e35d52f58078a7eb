"""Bytes behind the paths and URLs of recipes."""
