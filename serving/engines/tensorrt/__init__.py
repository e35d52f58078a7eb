"""TensorRT: plans are built and run here."""
