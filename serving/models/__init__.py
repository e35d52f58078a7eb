"""Loaded models, as those see them who face the callers."""
