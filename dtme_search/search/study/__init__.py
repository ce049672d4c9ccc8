"""What is true of a study across its trials."""
