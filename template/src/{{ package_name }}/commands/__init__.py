"""Orders: each has exactly one handler. One file for each topic. Yours."""
