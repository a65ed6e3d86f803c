"""Augmentation of whole batches on their device, a function of (seed, epoch, sample): `--augment`."""
