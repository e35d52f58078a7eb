"""Batch jobs: the answers of a model to every image of a source, as a Parquet table."""
