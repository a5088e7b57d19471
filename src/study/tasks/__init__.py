"""One file per task: its data, its loss, its metrics, and how the paper says to train on it."""
