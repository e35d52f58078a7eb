"""Grouping of single calls into batches, and the decision which calls to take at all."""
