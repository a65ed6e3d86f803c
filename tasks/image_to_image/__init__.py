"""One image from another, where pairs alone say how."""
