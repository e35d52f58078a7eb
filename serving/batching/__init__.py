"""Groups single calls into batches, and decides which calls to take at all.

port: the surface for callers.
batcher: the loop of a batch: fill, decide, run, answer.
admission: may a call enter?
waiting: who waits?
queue: in which order?
sizing: how many rows run now?
latency: how long will they take?
core_turns: which model has the cores?
ticket: one call.
batch: one batch.
execution: runs it, inline or on a thread.
"""
