"""Faults in a data set: labels that are probably wrong, duplicates, blank and tiny images."""
