"""The commands `build` and `adopt`."""
