"""`convserve serve|models|predict|evaluate|rebuild|doctor`: one module each.

No other package ends the process with an exit status.
"""
