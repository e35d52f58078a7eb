"""The front's side.

calls: what was sent, and what comes back; every call gets one outcome.
ticket: one call.
waiting: the calls that wait for an engine process.
port: a BatchPort whose batches run there.
mirror: keeps the catalogue by what the engine process tells.
loads: load and unload calls.
share: its sums.
child: one engine process, from its start to its end.
supervisor: starts it, watches it, starts it again.
"""
