"""The commands `init`, `build`, `adopt` and `shards`."""
