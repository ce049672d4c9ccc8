"""NYUD-v2, as published and from the official file."""
