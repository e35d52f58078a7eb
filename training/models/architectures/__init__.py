"""Networks that are defined here; each file names its paper."""
