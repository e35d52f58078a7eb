"""`convserve serve|models|predict|evaluate|doctor`: a module each. The only place that exits."""
