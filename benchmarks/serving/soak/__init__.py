"""Half an hour of honest callers: see __main__."""
