"""A search: many builds for one target. `search` is the way in."""
