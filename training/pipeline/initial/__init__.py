"""A first recipe for a folder: `convserve init`.

found: what the folder holds.
ask: the questions on a terminal, and `answers`.
drafts: candidates for network and size; `speed` times them here, `costs` a whole build with one.
compose: from facts, answers and a candidate to a recipe with the reason of each key; `document` is
    its YAML.
plan: the candidate that there is time for; `first_recipe` goes from folder to file.
"""
