"""What is learned: how a batch becomes inputs and targets, the loss, what counts as right, and the report of a test."""
