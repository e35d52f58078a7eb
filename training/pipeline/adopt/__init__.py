"""Variants, a gate and a manifest for a network that others made and that is served already."""
