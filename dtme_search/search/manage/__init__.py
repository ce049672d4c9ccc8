"""What a user does with studies that are there: list, rename, delete, clean, repair."""
