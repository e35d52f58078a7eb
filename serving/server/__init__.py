"""The server: its settings, its wires, and the operations behind them."""
