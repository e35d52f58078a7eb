"""Smaller networks: pruning, distillation, INT8, FP16."""
