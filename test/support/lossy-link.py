#!/usr/bin/env python3
"""An IP link between two network namespaces that delays, loses, reorders, doubles, damages and swallows packets.

    lossy-link.py NAMESPACE_A NAMESPACE_B ADDRESS_A ADDRESS_B CONTROL_SOCKET [SETTINGS]

A namespace is a path such as /proc/1234/ns/net. Both get a device "link0" (a TUN device, so neither netem nor any other
kernel module is needed); what one end sends, TCP and UDP alike, goes through this program to the other. Needs root.

SETTINGS and every line sent to the control socket are a JSON object with any of the keys of DEFAULTS, and "direction"
("a-to-b" or "b-to-a"; both without it). Each line is answered with a line: the settings and counters of both directions.
The program ends when its standard input ends, so that it never outlives who started it; the devices go with it.
"""
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

DEFAULTS = {
    'delayMs': 0.0,  # one way
    'jitterMs': 0.0,  # up to so much more, evenly spread: reorders when it exceeds the distance of packets
    'loss': 0.0,  # shares of packets, 0 to 1
    'reorder': 0.0,  # these go without the delay, ahead of others
    'duplicate': 0.0,
    'corrupt': 0.0,  # one bit of what follows the IP header is turned
    'blackhole': False,  # everything is swallowed
}
# Packets on the way in both directions; beyond it they are dropped as a full router would. 48 MB at 1,500 bytes.
MAX_QUEUED_PACKETS = 32_000
# Read at once from a device, so that the other one gets its turn.
PACKETS_PER_TURN = 64
MTU = 1_500
# ioctl numbers of linux/if_tun.h; not in Python's library.
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
IPV4_HEADER_BYTES = 20


def open_device(namespace, address, peer):
    """A descriptor of link0 in a namespace; it goes on working from outside."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor):
        if libc.setns(descriptor, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)

    home, there = os.open('/proc/self/ns/net', os.O_RDONLY), os.open(namespace, os.O_RDONLY)
    enter(there)
    try:
        device = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH22x', b'link0', IFF_TUN | IFF_NO_PI))
        for command in (
            ['ip', 'address', 'add', address, 'peer', peer, 'dev', 'link0'],
            ['ip', 'link', 'set', 'link0', 'up', 'mtu', str(MTU), 'txqueuelen', '2000'],
            ['ip', 'link', 'set', 'lo', 'up'],
        ):
            subprocess.run(command, check=True)
    finally:
        enter(home)
        os.close(there)
        os.close(home)
    return device


def main():
    namespace_a, namespace_b, address_a, address_b, control_path = sys.argv[1:6]
    device_a = open_device(namespace_a, address_a, address_b)
    device_b = open_device(namespace_b, address_b, address_a)
    ways = {device_a: 'a-to-b', device_b: 'b-to-a'}
    other = {device_a: device_b, device_b: device_a}
    settings = {way: dict(DEFAULTS) for way in ways.values()}
    counters = {way: dict.fromkeys(('packets', 'lost', 'duplicated', 'corrupted', 'overflowed'), 0) for way in settings}
    chance = random.Random(7)
    queue = []  # heap of (when, order of arrival, device, packet)
    order = 0

    def change(text):
        wanted = json.loads(text)
        direction = wanted.pop('direction', None)
        unknown = set(wanted) - set(DEFAULTS)
        if unknown or (direction is not None and direction not in settings):
            raise ValueError('unknown: ' + ', '.join(sorted(unknown) or [direction]))
        for way in settings if direction is None else [direction]:
            settings[way].update(wanted)

    def damage(packet):
        place = chance.randrange(IPV4_HEADER_BYTES, len(packet)) if len(packet) > IPV4_HEADER_BYTES else 0
        return packet[:place] + bytes([packet[place] ^ (1 << chance.randrange(8))]) + packet[place + 1 :]

    def take(device, now):
        nonlocal order
        way = ways[device]
        rules, counts, target = settings[way], counters[way], other[device]
        delay, jitter, loss = rules['delayMs'] / 1_000, rules['jitterMs'] / 1_000, rules['loss']
        is_plain = not (jitter or rules['reorder'] or rules['duplicate'] or rules['corrupt'])
        for _ in range(PACKETS_PER_TURN):
            try:
                packet = os.read(device, MTU + 100)
            except BlockingIOError:
                return
            counts['packets'] += 1
            if rules['blackhole'] or (loss and chance.random() < loss):
                counts['lost'] += 1
                continue
            if len(queue) >= MAX_QUEUED_PACKETS:
                counts['overflowed'] += 1
                continue
            order += 1
            if is_plain:
                heapq.heappush(queue, (now + delay, order, target, packet))
                continue
            if chance.random() < rules['corrupt']:
                counts['corrupted'] += 1
                packet = damage(packet)
            at = now if chance.random() < rules['reorder'] else now + delay + chance.random() * jitter
            heapq.heappush(queue, (at, order, target, packet))
            if chance.random() < rules['duplicate']:
                counts['duplicated'] += 1
                order += 1
                heapq.heappush(queue, (at, order, target, packet))

    def deliver(now):
        while queue and queue[0][0] <= now:
            _, _, device, packet = heapq.heappop(queue)
            try:
                os.write(device, packet)
            except OSError:
                pass  # damaged beyond what the kernel takes, or the device is full: lost, as on any link

    if len(sys.argv) > 6:
        change(sys.argv[6])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(control_path)
    listener.listen()
    speakers = {}
    print('ready', flush=True)
    watched = [device_a, device_b, listener.fileno(), sys.stdin.fileno()]
    while True:
        deliver(time.monotonic())
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        for ready in select.select(watched, [], [], wait)[0]:
            if ready in ways:
                take(ready, time.monotonic())
            elif ready == listener.fileno():
                speaker, _ = listener.accept()
                speakers[speaker.fileno()] = (speaker, bytearray())
                watched.append(speaker.fileno())
            elif ready == sys.stdin.fileno():
                if not os.read(ready, 4_096):
                    return
            else:
                speaker, buffered = speakers[ready]
                data = speaker.recv(4_096)
                if not data:
                    del speakers[ready]
                    watched.remove(ready)
                    speaker.close()
                    continue
                buffered += data
                while b'\n' in buffered:
                    line, _, rest = bytes(buffered).partition(b'\n')
                    buffered[:] = rest
                    try:
                        change(line)
                        answer = {'settings': settings, 'counters': counters}
                    except (ValueError, AttributeError) as error:
                        answer = {'error': str(error)}
                    speaker.sendall(json.dumps(answer).encode() + b'\n')


main()
