"""Load tester of inference servers, which it knows by their wire alone."""
