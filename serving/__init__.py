"""The server: loads published models and answers gRPC calls; never imports torch or training."""
