"""One module a source: what reads folders, listings and public sets into a Dataset."""
