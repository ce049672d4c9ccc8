"""The life of one trial."""
