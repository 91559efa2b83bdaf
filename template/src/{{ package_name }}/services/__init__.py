"""Business logic and the outside world, free of messages and models. Yours."""
