"""The commands `init`, `build`, `adopt`, `shards` and `extract`."""
