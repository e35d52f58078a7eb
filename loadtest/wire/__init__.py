"""How a server is called: its two wires, and the encoding of requests and answers."""
