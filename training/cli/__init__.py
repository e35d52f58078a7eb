"""The commands `init`, `build`, `adopt`, `runs`, `report`, `shards` and `extract`."""
