"""Interface definitions and their generated stubs."""
