"""The parts of `python scripts/gpu_check.py`."""
