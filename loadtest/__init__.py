"""Black-box load tester: knows the wire, not the server."""
