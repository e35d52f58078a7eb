"""Batches that another process runs: an engine process, whose crash harms no caller.

The front faces callers and keeps their calls until they are answered; the engine process loads
models and runs batches. Calls travel as records of 64 bytes over a SOCK_SEQPACKET socket, tensors
in slots of shared memory that the front owns, everything else as JSON over a second socket. Shared
memory holds no lock, flag or index: records say who may read or write a slot.

front, engine: the two sides.
records: the form of a record.
tensors: arrays in a piece of memory.
slots: memory for tensors: the front's, and the engine process's view of it.
outputs: the tensors that come back.
channel: the socket of the records.
control: the socket of questions and facts.
override: the parameters of a load call in a question.
flight: the calls in running batches, for whoever finds the process dead.
ends: the descriptors of an engine process.
"""
