"""Optimizers, Muon among them, the learning rate of a step, the moving average of weights."""
