"""The content of requests, and the order in which they are sent."""
