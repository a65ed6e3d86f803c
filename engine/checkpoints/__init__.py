"""What a run reads back: checkpoints of its whole state, best.pth, weights to start from."""
