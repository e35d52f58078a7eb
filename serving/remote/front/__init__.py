"""The front's side.

calls: what was sent to an engine process, and what comes back; every call gets one outcome.
ticket: one call. asking: the calls that have asked for a place.
waiting: the calls that wait for an engine process.
port: a BatchPort whose batches run there. spread: chooses of those of several engine processes.
mirror: keeps a catalogue by what the engine process tells. merged: the one of several.
loads: load and unload calls.
share: its sums.
seats: the GPUs and cores of engine processes.
child: one engine process, from its start to its end.
supervisor: starts it, watches it, starts it again. engines: several of them.
states: what is told of it.
"""
