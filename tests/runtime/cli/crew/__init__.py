"""An application whose durable commands wait, fail, or hold on: run as `python -m crew`."""
