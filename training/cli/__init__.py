"""The commands `init`, `build` and `adopt`."""
