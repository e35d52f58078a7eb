"""Signed models: keys, signatures of versions, and the private copies that are loaded."""
