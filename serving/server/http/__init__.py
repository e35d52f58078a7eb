"""The HTTP wire."""
