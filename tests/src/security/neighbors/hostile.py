"""Does one kind of harm in a VM, as root: `hostile.py KIND SECONDS [SERVER]`. It prints `begun` once the harm is done for the first time, and
ends by itself. All of it is what a tenant can do; none of it needs a fault of Rigbox."""

import os
import resource
import socket
import struct
import sys
import time

BRIDGE = "172.16.0.1"
PRIVATE = "10.0.0.1"
kind, seconds = sys.argv[1], float(sys.argv[2])
server = sys.argv[3] if len(sys.argv) > 3 else None
until = time.monotonic() + seconds


def begun():
    print("begun", flush=True)


def public(number):
    """An address of the internet for each number."""
    return "11.%d.%d.%d" % (number >> 16 & 255, number >> 8 & 255, number & 255)


def flood(send):
    """Sends as fast as the VM can, and from many ports."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
    for one in sockets:
        one.setblocking(False)
    number = 0
    while time.monotonic() < until:
        for one in sockets:
            number += 1
            try:
                send(one, number)
            except OSError:
                pass  # A refusal, or a full queue.
        if number == len(sockets):
            begun()


def dns():
    """Queries for names that no cache has."""
    head = struct.pack("!6H", 7, 256, 1, 0, 0, 0)

    def send(one, number):
        label = b"%08x" % number
        one.sendto(head + b"\x08" + label + b"\x05flood\x07example\0\0\1\0\1", (BRIDGE, 53))

    flood(send)


def conntrack():
    """Flows that end at the first router, each a new one."""

    def send(one, number):
        one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        one.sendto(b"flow", (public(number), 1024 + number % 60000))

    flood(send)


def refusals():
    """Packets to where no VM may send."""

    def send(one, number):
        one.sendto(b"refused", (PRIVATE, 1 + number % 65535))

    flood(send)


def hold(connections):
    begun()
    time.sleep(max(0, until - time.monotonic()))
    return connections


def many_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))


def outward():
    """As many connections as the VM may have, without a request."""
    many_files()
    connections = []
    for _ in range(4096):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((server, 80))
        connections.append(one)
        if len(connections) % 100 == 0:
            time.sleep(0.1)
        if len(connections) == 400:
            begun()
    hold(connections)


def inward():
    """App that accepts and never answers."""
    many_files()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", 8000))
    listener.listen(4096)
    listener.settimeout(1)
    begun()
    connections = []
    while time.monotonic() < until:
        try:
            connections.append(listener.accept()[0])
        except OSError:
            pass


def disk():
    """Fills the disk: most of it by reserving, the rest by writing."""
    path = "/var/tmp/hostile"
    free = os.statvfs("/var/tmp")
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.unlink(path)
    os.posix_fallocate(descriptor, 0, max(1 << 20, free.f_bavail * free.f_frsize - (256 << 20)))
    os.lseek(descriptor, 0, os.SEEK_END)
    started = False
    while time.monotonic() < until:
        try:
            os.write(descriptor, b"\1" * (1 << 20))
        except OSError:
            time.sleep(0.1)
        if not started:
            started = True
            begun()


def memory():
    """Takes memory until the kernel ends the process that does, again and again."""
    while time.monotonic() < until:
        child = os.fork()
        if child == 0:
            taken = []
            while time.monotonic() < until:
                taken.append(b"\1" * (8 << 20))
                if len(taken) == 8:
                    begun()
            os._exit(0)
        os.waitpid(child, 0)


def compute():
    """Uses what the VM has of a CPU, and nothing else."""
    begun()
    while time.monotonic() < until:
        pass


def forks():
    """Every process forks for as long as it may."""
    begun()
    while time.monotonic() < until:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)


{"dns": dns, "conntrack": conntrack, "refusals": refusals, "outward": outward, "inward": inward, "disk": disk, "memory": memory, "forks": forks, "compute": compute}[kind]()
