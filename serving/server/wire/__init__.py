"""Listens for gRPC calls: one interface, and the libraries that implement it."""
