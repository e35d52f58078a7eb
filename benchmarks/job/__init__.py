"""The whole way of a team: from the network that it has, in Triton, to the one that we serve.

python -m benchmarks.job --help
"""
