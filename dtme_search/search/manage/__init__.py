"""What users do with existing studies: list, rename, delete, clean, repair."""
