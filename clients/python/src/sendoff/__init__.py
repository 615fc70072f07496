"""Client of Sendoff."""
