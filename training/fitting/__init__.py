"""Training: the loop, losses, optimisers, schedules."""
