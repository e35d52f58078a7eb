"""What every room stands on: errors, metrics, tensors, accuracy measures, the machine."""
