"""The repositories of a server: folders, and URLs with the folders here that follow them.

addresses: as settings give them.
repositories: all of them as one.
fetched: follows a URL, and says what it could not fetch.
objects: the models in a listing, whose names are checked.
download: objects to files, whole or not at all.
kept: the versions in the cache, by what they hold.
folders: the models that they make up, each of which changes in one step.
locks: who may change what, of the processes that share the cache.
state: what lies in the folder of a URL.
"""
