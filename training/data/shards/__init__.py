"""Tar shards in the layout of WebDataset: read, indexed, streamed and written.

A sample is a run of members whose names agree up to the first dot: KEY.jpg with KEY.cls (a number
or a name), KEY.json or KEY.txt, or with a mask as KEY.seg.png or KEY.mask.png.
"""
