"""ONNX graphs before and after rounding: what stays in floating point, and changes to weights by
which 8 bits cost less accuracy."""
