"""What Sendoff costs, measured: `make bench`. README.md says how each figure is made, and what it does not show."""
