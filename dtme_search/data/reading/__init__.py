"""What every data set uses to read files."""
