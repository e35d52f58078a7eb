"""Numbers that a process counts, which add up over processes."""
