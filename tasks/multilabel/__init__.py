"""Several labels an image."""
