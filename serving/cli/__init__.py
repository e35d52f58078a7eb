"""`convserve serve|models|predict|evaluate|rebuild|doctor`: a module each. The only place that
exits."""
