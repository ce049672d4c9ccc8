"""Parts for dtme-search, one file for each family."""
