"""Transformations that a model is to learn: `--transform` parsed, its targets computed by torchvision."""
