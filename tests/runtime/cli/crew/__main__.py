"""The way in."""

from .application import cli

if __name__ == "__main__":
    cli()
