"""From a version's folder to its batcher: files are read, candidates chosen, checked and timed, and
versions swapped without losing a call."""
