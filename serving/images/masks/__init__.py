"""Masks as people have them. Training and `convserve evaluate` read them with these modules.

folders: images and their masks in a folder.
files: the pixels of a mask file.
tables: names and colours; those of public data sets are the .yaml files here.
rules: from pixels to classes.
settings: what people say about their masks, and the rule that follows.
"""
