"""What a study may propose: its search space, and points with names."""
