"""Logs in by paramiko, and does what scripts do: commands, files, a connection through the server, log-ins that are refused. Says `ok`."""

import io
import os
import socket
import sys
import time

import paramiko

HOST, PORT, USER, KEY, OTHER_KEY = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
TIMEOUT = 60


def connect(keys):
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    limits = {name: TIMEOUT for name in ("timeout", "banner_timeout", "auth_timeout", "channel_timeout")}
    client.connect(HOST, PORT, USER, key_filename=keys, allow_agent=False, look_for_keys=False, **limits)
    return client


def run(client, line, stdin=b""):
    sent, out, err = client.exec_command(line, timeout=TIMEOUT)
    sent.write(stdin)
    sent.channel.shutdown_write()
    return out.read(), err.read(), out.channel.recv_exit_status()


def commands(client):
    ended = run(client, "cat; echo err >&2; exit 7", b"in")
    assert ended == (b"in", b"err\n", 7), ended
    assert run(client, "exec >&- 2>&-; sleep 1; exit 9") == (b"", b"", 9), "the end of output came before the status"


def files(client):
    content = os.urandom(1_500_000)
    sftp = client.open_sftp()
    sftp.putfo(io.BytesIO(content), "from-paramiko", file_size=len(content))
    back = io.BytesIO()
    sftp.getfo("from-paramiko", back)
    assert back.getvalue() == content, "another file came back"
    sftp.remove("from-paramiko")
    try:
        sftp.stat("from-paramiko")
        raise AssertionError("a removed file is there")
    except FileNotFoundError:
        pass


def connection_through_the_server(client):
    """The server's own SSH server speaks first."""
    channel = client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1), timeout=TIMEOUT)
    channel.settimeout(TIMEOUT)
    assert channel.recv(8) == b"SSH-2.0-", "no greeting"
    channel.close()
    try:
        client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 1), timeout=TIMEOUT)
        raise AssertionError("a closed port was connected")
    except paramiko.ChannelException as refused:
        assert refused.code == 2, refused


def terminal(client):
    shell = client.invoke_shell(width=80, height=24)
    shell.settimeout(TIMEOUT)
    shell.resize_pty(width=123, height=45)
    # The echo of what is typed does not have the answer.
    shell.send(b"echo size=$(stty size | tr ' ' x)\nexit 5\n")
    seen = b""
    while b"size=45x123" not in seen:
        part = shell.recv(4096)
        assert part, seen
        seen += part
    assert shell.recv_exit_status() == 5, "the shell's status"


def refusals():
    """What a server answers to other methods, which careful clients do not even ask for."""

    def method(log_in):
        transport = paramiko.Transport(socket.create_connection((HOST, PORT), TIMEOUT))
        try:
            transport.start_client(timeout=TIMEOUT)
            log_in(transport)
            raise AssertionError("it was not refused")
        except paramiko.BadAuthenticationType as refused:
            return refused.allowed_types
        finally:
            transport.close()

    def password(transport):
        transport.auth_password(USER, "secret", fallback=False)

    for log_in in (
        lambda transport: transport.auth_none(USER),
        lambda transport: transport.auth_none("nobody"),
        password,
        lambda transport: transport.auth_interactive(USER, lambda *_: []),
    ):
        allowed = method(log_in)
        assert allowed == ["publickey"], allowed


def main():
    client = connect([KEY])
    for test in (commands, files, connection_through_the_server, terminal):
        started = time.monotonic()
        test(client)
        print(f"paramiko: {test.__name__}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    client.close()
    several = connect([OTHER_KEY, KEY])
    assert run(several, "echo in")[0] == b"in\n", "the second key"
    several.close()
    refusals()
    print("ok")


main()
