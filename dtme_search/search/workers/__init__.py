"""Processes and machines that work on a study."""
