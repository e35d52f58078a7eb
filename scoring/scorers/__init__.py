"""Who answers: a model in this process, or servers.

scorer: the interface, and what it takes to open one. opened: chooses.
local: an engine here, by the server's own path. servers: the same questions over gRPC.
"""
