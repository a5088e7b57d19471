"""Public data sets: downloaded with checksums, or read from a folder."""
