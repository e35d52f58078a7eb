"""Where the images of a job lie.

item: one image, and the interface of a source.
folder: files of this machine. remote: files behind a URL. shards: images in tar files of either.
listing: all of them in one order, in a file.
"""
