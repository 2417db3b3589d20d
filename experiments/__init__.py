"""What makes the stored results in data/: `python -m experiments` lists the experiments."""
