"""What Sendoff costs, measured: `make bench`. How each figure is made, and what it does not show, stands in README.md."""
