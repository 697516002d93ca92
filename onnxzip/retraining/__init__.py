"""Retraining: a net as a torch module whose params go back into its file by name."""
