"""The operations that the server offers, whatever wire a call comes by."""
