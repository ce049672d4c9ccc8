"""What all data sets use to read files."""
