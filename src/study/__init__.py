"""The study: what reproduces the paper with the library, and what only the book needs."""
