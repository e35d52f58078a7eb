"""How good a network is: answers, measures, the gate."""
