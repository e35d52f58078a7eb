"""What lies in a folder.

labelled: its labelled images; `mask_values` names what masks hold where nothing does.
look: a sample of the images.
network_file, first_weights: networks as files, weights to begin with.
find: all of it; `facts` are the plain values.
"""
