"""Data sets that no disk holds: train is read while it is trained on, from the Hub, from object storage, from files."""
