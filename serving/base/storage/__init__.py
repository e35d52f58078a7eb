"""Bytes behind paths and URLs.

store: reads by range, lists and writes.
address: which texts are URLs, and that they hold no secret.
systems, messages: open the packages of stores, and word their errors.
"""
