"""The ground of every room: errors, metrics, tensors, accuracy measures, the machine."""
