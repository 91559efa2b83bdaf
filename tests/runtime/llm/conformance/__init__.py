"""What every provider promises: cases, providers, and the table of both."""
