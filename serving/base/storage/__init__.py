"""Bytes behind paths and URLs.

store: reads by range, lists and writes.
address: which texts are URLs, and that they hold no secret.
entry: files and folders as listings tell of them.
systems, messages: open the packages of stores, and word their errors.
tar: members of tar files.
web: web servers, and what keeps their answers and those of stores bounded.
"""
