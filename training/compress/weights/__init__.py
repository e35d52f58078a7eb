"""Changes to the weights of a network's ONNX graph by which 8 bits cost less accuracy."""
