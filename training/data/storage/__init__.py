"""Bytes behind paths and URLs.

store: reads by range, lists and writes.
systems, messages: open the packages of stores, and word their errors.
"""
