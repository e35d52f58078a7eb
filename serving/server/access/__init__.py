"""Who calls, what he may do and how much of it, and the record of both."""
