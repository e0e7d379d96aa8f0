"""Run by root in a VM: sends what its network must not let through. Every frame carries MARK, which recorders outside look for."""

import socket
import struct
import sys

MARK = b"rigbox-attack-mark"
PUBLIC = "1.2.3.4"
OWN_MAC, GATEWAY_MAC = bytes.fromhex("027269670002"), bytes.fromhex("027269670001")
BROADCAST = b"\xff" * 6
OWN, GATEWAY = "172.16.0.2", "172.16.0.1"
FORBIDDEN = [
    "0.0.0.1", "10.0.0.1", "10.255.255.254", "100.64.0.1", "127.0.0.1", "169.254.169.254", "169.254.0.1", "169.254.0.2",
    "169.254.255.254", "172.16.0.1", "172.16.0.3", "172.17.0.1", "172.31.255.254", "192.0.0.1", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.254", "198.51.100.1", "203.0.113.1", "224.0.0.251", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "198.18.0.2", "198.18.255.254", "168.63.129.16",
] + sys.argv[1:]

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
wire.bind(("eth0", 0))
sent = 0


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source, target, protocol, body, flags=0, number=1):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), number, flags, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def udp(body=MARK, port=40404):
    return struct.pack("!HHHH", 40404, port, 8 + len(body), 0) + body


def frame(kind, body, source=OWN_MAC, target=GATEWAY_MAC):
    global sent
    data = target + source + struct.pack("!H", kind) + body
    try:
        wire.send(data.ljust(60, b"\0"))
        sent += 1
    except OSError as error:
        print("not sent:", error, file=sys.stderr)


# Addresses that are not its own.
for mac in ["027269670003", "027269670001", "0242ac110002", "ffffffffffff"]:
    frame(0x0800, ip(OWN, PUBLIC, 17, udp()), source=bytes.fromhex(mac))
for address in ["172.16.0.1", "172.16.0.3", "10.0.0.5", "127.0.0.1", "93.184.216.2", "8.8.8.8", "0.0.0.0", "255.255.255.255"]:
    frame(0x0800, ip(address, PUBLIC, 17, udp()))
# To groups and to everybody.
for target in [BROADCAST, bytes.fromhex("01005e0000fb"), bytes.fromhex("333300000001"), bytes.fromhex("027269670009")]:
    frame(0x0800, ip(OWN, PUBLIC, 17, udp()), target=target)
    frame(0x0800, ip(OWN, "224.0.0.251", 17, udp()), target=target)
# VLANs, one in another, and other kinds of frames.
for tag in [0, 1, 2, 100, 4095]:
    tagged = struct.pack("!HH", tag, 0x0800) + ip(OWN, PUBLIC, 17, udp())
    frame(0x8100, tagged)
    frame(0x8100, tagged, target=BROADCAST)
    frame(0x88A8, struct.pack("!HH", tag, 0x8100) + tagged)
for kind in [0x0806, 0x8863, 0x8864, 0x88CC, 0x8847, 0x9000, 0x0004]:
    frame(kind, MARK, target=BROADCAST)
    frame(kind, MARK)
# IPv6: a packet, and a router's advertisement to all nodes.
link_local = socket.inet_pton(socket.AF_INET6, "fe80::2")
for target, body in [("ff02::1", bytes([134, 0, 0, 0, 64, 0, 0, 30]) + b"\0" * 8 + MARK), ("fe80::1", MARK), ("fd00:ec2::254", MARK),
                     ("2001:db8::1", MARK)]:
    packet = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + link_local + socket.inet_pton(socket.AF_INET6, target) + body
    frame(0x86DD, packet, target=bytes.fromhex("333300000001"))
    frame(0x86DD, packet)
# ARP: floods of questions, and of answers that nobody asked for.
for n in range(2000):
    source = socket.inet_aton("172.16.%d.%d" % (n >> 8, n & 255))
    frame(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1 + n % 2) + OWN_MAC + source + GATEWAY_MAC + source + MARK, target=BROADCAST)
# To where nobody may go, by raw frames: whole, and in fragments.
for number, target in enumerate(FORBIDDEN, 100):
    frame(0x0800, ip(OWN, target, 17, udp()))
    frame(0x0800, ip(OWN, target, 1, b"\x08\0\0\0" + MARK))
    frame(0x0800, ip(OWN, target, 47, MARK))
    body = udp(MARK * 8)
    frame(0x0800, ip(OWN, target, 17, body[:64], 0x2000, number))
    frame(0x0800, ip(OWN, target, 17, body[64:], 8, number))
# And by sockets, as programs do.
reached = []
for target in FORBIDDEN:
    if target == "127.0.0.1":
        continue  # its own
    for port in [80, 7070, 7080, 9091, 40405]:
        stream = socket.socket()
        stream.settimeout(0.3)
        try:
            stream.connect((target, port))
            reached.append("%s:%d" % (target, port))
        except OSError:
            pass
        stream.close()
    packet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    packet.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    try:
        packet.sendto(MARK, (target, 40405))
    except OSError:
        pass
print("sent", sent, "reached", " ".join(reached) or "nothing")
