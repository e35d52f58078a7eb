"""The commands `build`, `adopt` and `shards`."""
