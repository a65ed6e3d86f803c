"""The command lines: options with their defaults and meanings, their grammar, recipes. Nothing heavy is imported."""
