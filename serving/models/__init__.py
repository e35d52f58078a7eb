"""Loaded models: how a version is chosen, loaded, proven and run."""
