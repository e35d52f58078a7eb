"""A first recipe for what lies in a folder: `convserve init`.

walk: the folders and files below a folder, in bounded time.
facts: what was found, as plain values.
look: a sample of the images: sizes, colours, detail, broken files.
data, networks: which data, and which networks and weights, a folder holds.
ask: the questions on a terminal.
speed: candidates for the network, timed on this machine.
choose: from facts, answers and times to a recipe with the reason of each key.
write: the recipe as YAML with comments.
"""
