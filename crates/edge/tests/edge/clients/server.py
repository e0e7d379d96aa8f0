"""A WebSocket server that echoes, for very many at a time: prints its port and ends when its input does."""

import asyncio
import resource
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass


async def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Small sockets: no compression, and nobody is asked whether he is still there.
    async with serve(echo, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=1024) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
