"""One phase from start to end, the search for a rate, and the figures of the server."""
