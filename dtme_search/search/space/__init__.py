"""What a study may propose: its search space, and the points that have names."""
