"""Serves until it is stopped; prints `OPENAI_BASE_URL`: python -m runtime.llm.vendors --port 0."""

import argparse
import asyncio
import sys

from . import VendorServer


async def serve(port: int) -> None:
    async with VendorServer(port=port) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve fake vendors on the loopback interface.")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    asyncio.run(serve(parser.parse_args().port))
