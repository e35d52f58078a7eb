"""Stands in for NVIDIA's package of this name, where this folder is on the path."""
