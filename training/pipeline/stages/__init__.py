"""The stages of a build, one a file: its key (the recipe's sections that it reads, and the facts
beside them) and its work. Their order stands in training.pipeline.pipeline."""
