"""A run: built from options, stepped, evaluated, saved, resumed, tested at its end."""
