"""Attacks on a server that has a memory limit, with honest callers beside them: see __main__."""
