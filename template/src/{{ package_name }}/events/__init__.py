"""Past facts: each has any number of handlers. One file for each topic. Yours."""
