"""What lies in a folder.

walk: the folders and files below it, in bounded time.
kinds: the layouts of labelled images that it may have; `labelled` lets their sources try, and
    `mask_values` names what masks hold where nothing does.
look: a sample of the images.
network_file, first_weights: networks as files, weights to begin with.
find: all of it; `facts` are the plain values.
"""
