"""Logs in by asyncssh, and uses one connection for many things at once: commands, files, forwards, signals, terminals. Says `ok`."""

import asyncio
import os
import sys
import time

import asyncssh

HOST, PORT, USER, KEY = sys.argv[1], int(sys.argv[2]), *sys.argv[3:5]
AT_ONCE = 20
TIMEOUT = 80


async def commands(connection):
    """All are sent before the first is answered."""
    many = [connection.run(f"cat; exit {number}", input=str(number)) for number in range(AT_ONCE)]
    for number, ended in enumerate(await asyncio.gather(*many)):
        assert (ended.stdout, ended.exit_status) == (str(number), number), ended


async def files(connection):
    content = [os.urandom(200_000) for _ in range(4)]

    async def there_and_back(sftp, number, data):
        name = f"from-asyncssh-{number}"
        async with sftp.open(name, "wb") as file:
            await file.write(data)
        async with sftp.open(name, "rb") as file:
            assert await file.read() == data, "another file came back"
        await sftp.remove(name)

    async with connection.start_sftp_client() as sftp:
        await asyncio.gather(*(there_and_back(sftp, *item) for item in enumerate(content)))


async def forwards(connection):
    """To the server's own SSH server, which speaks first, by a port and by a socket; and from the server to this machine."""
    listener = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", 22)
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
        assert await reader.readexactly(8) == b"SSH-2.0-", "no greeting"
        writer.close()
    listener.close()

    async def greet(reader, writer):
        writer.write(b"hello " + await reader.readline())
        writer.write_eof()

    own = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = own.sockets[0].getsockname()[1]
    remote = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", port)
    line = f"exec 3<>/dev/tcp/127.0.0.1/{remote.get_port()}; echo you >&3; cat <&3"
    answers = await asyncio.gather(*(connection.run(line, check=True) for _ in range(3)))
    assert [answer.stdout for answer in answers] == ["hello you\n"] * 3, answers
    remote.close()
    await remote.wait_closed()
    own.close()


async def signals(connection):
    """Arrive at the command, and its end by a signal arrives here."""
    trapping = await connection.create_process("trap 'echo got; exit 6' USR1; echo ready; while :; do sleep 0.1; done")
    assert await trapping.stdout.readline() == "ready\n"
    trapping.send_signal("USR1")
    ended = await trapping.wait()
    assert (ended.stdout, ended.exit_status) == ("got\n", 6), ended
    process = await connection.create_process("echo ready; exec sleep 1000")
    assert await process.stdout.readline() == "ready\n"
    process.terminate()
    ended = await process.wait()
    assert ended.exit_signal and ended.exit_signal[0] == "TERM", ended


async def terminals(connection):
    line = "stty size; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.1; done"
    process = await connection.create_process(line, term_type="xterm", term_size=(80, 24))
    assert (await process.stdout.readline()).split() == ["24", "80"]
    assert (await process.stdout.readline()).strip() == "ready"
    process.change_terminal_size(132, 50)
    ended = await process.wait()
    assert (ended.stdout.split(), ended.exit_status) == (["50", "132"], 4), ended


async def environment(connection):
    """The server takes some variables, and leaves others out."""
    ended = await connection.run("echo $LC_RIGBOX $OTHER.", env={"LC_RIGBOX": "a b", "OTHER": "c"})
    assert ended.stdout == "a b .\n", ended


async def main():
    async with asyncssh.connect(HOST, PORT, username=USER, client_keys=[KEY], known_hosts=None, agent_path=None) as connection:
        for test in (commands, files, forwards, signals, terminals, environment):
            started = time.monotonic()
            await asyncio.wait_for(test(connection), TIMEOUT)
            print(f"asyncssh: {test.__name__}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    print("ok")


asyncio.run(main())
