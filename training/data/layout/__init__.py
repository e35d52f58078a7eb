"""What a folder of labelled images is, for whoever is given one without a recipe.

walk: the folders and files below it, in bounded time.
kinds: the layouts that it may have.
opened: the first of them that a source can read.
"""
