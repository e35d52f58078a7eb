"""Sources that are larger than memory or disk, and the stores that hold them."""
