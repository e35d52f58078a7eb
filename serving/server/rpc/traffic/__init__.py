"""The messages that are on their way: who sends and reads them since when, and who is cut."""
