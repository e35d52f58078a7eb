"""The offline stage: trains a network, makes it small, proves it accurate and publishes it."""
