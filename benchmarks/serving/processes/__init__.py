"""What an engine process costs, and what the death of each process costs callers: see __main__."""
