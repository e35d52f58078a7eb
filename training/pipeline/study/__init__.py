"""Many trainings of one recipe, compared: a search, an ablation, a cross-validation."""
