"""Our server beside its ceiling, its floor and its peers, on the same cores in the same run.

python -m benchmarks.serving.speed --help
"""
