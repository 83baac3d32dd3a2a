"""The work (see work.h) with Paho for Python: work_paho.py STYLE HOST PORT LEVEL QOS ROOT FOLDER ID

STYLE: threads (loop_start), asyncio (the loop watches the socket), hasty (publishes before CONNACK: one message a QoS; subscribes to nothing).
"""
import asyncio
import hashlib
import os
import socket
import sys
import threading

import paho.mqtt.client as mqtt

SECONDS = 40


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Work:
    def __init__(self, host, port, level, qos, root, folder, client_id):
        self.host, self.port, self.level, self.qos, self.root = host, int(port), int(level), int(qos), root
        self.files = []
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as f:
                self.files.append((name, f.read()))
        self.received, self.done, self.steps = 0, 0, 0
        self.change = lambda: None
        v5 = self.level == 5
        kw = {} if v5 else {"clean_session": True}
        self.client = mqtt.Client(client_id, protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311, **kw)
        self.client.max_inflight_messages_set(0)
        self.client.on_connect = lambda c, u, flags, code, properties=None: self.step(f"connected code={getattr(code, 'value', code)}")
        self.client.on_disconnect = lambda c, u, code, properties=None: self.step(f"disconnected code={getattr(code, 'value', code)}")
        self.client.on_subscribe = lambda c, u, mid, granted, properties=None: self.step(f"subscribed qos={getattr(granted[0], 'value', granted[0])}")
        self.client.on_unsubscribe = lambda c, u, mid, *more: self.step("unsubscribed")
        self.client.on_publish = self.on_publish
        self.client.on_message = self.on_message

    def step(self, line):
        say(line)
        self.steps += 1
        self.change()

    def on_publish(self, *_):
        self.done += 1
        self.change()

    def on_message(self, client, data, m):
        assert m.topic.startswith(self.root + "/"), m.topic
        say(f"{m.topic[len(self.root) + 1:]} qos={m.qos} length={len(m.payload)} sha256={hashlib.sha256(m.payload).hexdigest()}")
        self.received += 1
        self.change()

    def moves(self):
        """What to do, and what is then to be waited for, one after the other."""
        yield None, lambda: self.steps == 1
        yield lambda: self.client.subscribe(self.root + "/#", 2), lambda: self.steps == 2
        for q in range(self.qos + 1):
            count = (q + 1) * len(self.files)
            yield (lambda: [self.client.publish(f"{self.root}/{q}/{name}", payload, q) for name, payload in self.files],
                   lambda: self.received == count and self.done == count)
        yield lambda: self.client.unsubscribe(self.root + "/#"), lambda: self.steps == 3
        yield self.client.disconnect, lambda: self.steps == 4


def threads(work):
    changed = threading.Condition()

    def change():
        with changed:
            changed.notify_all()
    work.change = change
    work.client.connect(work.host, work.port)
    work.client.loop_start()
    for act, there in work.moves():
        if act:
            act()
        with changed:
            assert changed.wait_for(there, SECONDS), (work.steps, work.received, work.done)
    work.client.loop_stop()


async def in_loop(work):
    """As in Paho's example loop_asyncio.py: the loop watches the socket, Paho reads and writes when it is ready."""
    loop, client = asyncio.get_running_loop(), work.client
    changed = asyncio.Event()
    work.change = changed.set
    client.on_socket_open = lambda c, u, sock: loop.add_reader(sock, client.loop_read)
    client.on_socket_close = lambda c, u, sock: loop.remove_reader(sock)
    client.on_socket_register_write = lambda c, u, sock: loop.add_writer(sock, client.loop_write)
    client.on_socket_unregister_write = lambda c, u, sock: loop.remove_writer(sock)
    client.connect(work.host, work.port)
    client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    for act, there in work.moves():
        if act:
            act()
        while not there():
            changed.clear()
            await asyncio.wait_for(changed.wait(), SECONDS)


def hasty(work):
    """PUBLISH directly behind CONNECT, before the broker has answered."""
    client, end = work.client, threading.Event()
    work.change = lambda: work.done == work.qos + 1 and end.set()
    client.connect(work.host, work.port)
    infos = [client.publish(f"{work.root}/{q}/{work.files[q][0]}", work.files[q][1], q) for q in range(work.qos + 1)]
    client.loop_start()
    for info in infos:
        info.wait_for_publish(SECONDS)
        assert info.is_published()
    say(f"published {len(infos)}")
    client.disconnect()
    client.loop_stop()


def main():
    style, *rest = sys.argv[1:]
    work = Work(*rest)
    if style == "asyncio":
        asyncio.run(in_loop(work))
    else:
        {"threads": threads, "hasty": hasty}[style](work)


main()
