"""What a run writes beside checkpoints: its folder, its description, what trackers show."""
