"""Layers that give the results of PyTorch's own, and take less time or memory in training, or prediction, on CPUs."""
