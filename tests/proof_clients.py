"""Customers of examples/shop, from outside: proof_clients.py ADDRESS SECONDS '{"chats": 10, "calls": 10, "visitors": 4, "shoppers": 20}'.

chats: WebSockets; calls: streams of gRPC (Debian's python3-grpcio), each client on a channel of its own that stays; visitors: HTTPS, each
request on a connection of its own; shoppers: carts in the memory of one pod, found again by a cookie, each on a connection that stays for a
while. All talk for a second or more, at most SECONDS, end as people do, and begin anew: a session is cut when it ends in any other way, or when what it was told
is not what it had said.

Says "running", goes on until its input ends, lets all sessions come to their end, then tells as JSON what there was and what failed."""

import asyncio
import base64
import json
import os
import random
import ssl
import sys
import time

import grpc

HOST = "shop.test"
LIMIT = 20  # seconds for one answer
SHORTEST = 1  # seconds that a session lasts


class Cut(Exception):
    pass


class Kind:
    def __init__(self, name):
        self.name, self.sessions, self.held, self.requests, self.failures = name, 0, 0, 0, []

    def told(self):
        return {"sessions": self.sessions, "held": self.held, "requests": self.requests, "failures": self.failures}


class Clients:
    def __init__(self, address, longest):
        self.address, self.longest, self.ended = address, longest, asyncio.Event()
        self.kinds = {}
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    async def repeat(self, name, session):
        kind = self.kinds.setdefault(name, Kind(name))
        await asyncio.sleep(random.uniform(0, 2))
        while not self.ended.is_set():
            kind.sessions += 1
            began = time.time()
            said = [began, 0]  # when the last request began; what it was
            try:
                await session(kind, said)
                kind.held += 1
            except Exception as error:
                kind.failures.append([said[0], round(1000 * (time.time() - said[0])), began, f"{name}, message {said[1]}: {error!r}"])
                await asyncio.sleep(0.2)

    async def talk(self, kind, said, exchange, pause=0.4):
        """Sends numbers for a while; each must be answered with itself."""
        until = time.monotonic() + random.uniform(SHORTEST, self.longest)
        while time.monotonic() < until and not self.ended.is_set():
            said[:] = time.time(), said[1] + 1
            kind.requests += 1
            text = f"{said[1]}"
            answer = await asyncio.wait_for(exchange(text), LIMIT)
            if not answer.endswith(text):
                raise Cut(f"{answer!r} to {text}")
            await asyncio.sleep(random.uniform(0, 2 * pause))

    async def connect(self, tls=None):
        port = 443 if tls else 80
        return await asyncio.wait_for(asyncio.open_connection(self.address, port, ssl=tls, server_hostname=HOST if tls else None), LIMIT)

    async def chat(self, kind, said):
        reader, writer = await self.connect()
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            writer.write(f"GET /chat HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                         f"Sec-WebSocket-Key: {key}\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
            if b" 101 " not in head.split(b"\r\n")[0]:
                raise Cut(head.split(b"\r\n")[0].decode())

            def frame(opcode, payload):
                mask = os.urandom(4)
                return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))

            async def receive():
                first, length = await reader.readexactly(2)
                return first & 15, await reader.readexactly(length)

            async def exchange(text):
                writer.write(frame(1, text.encode()))
                opcode, payload = await receive()
                if opcode != 1:
                    raise Cut(f"frame {opcode} {payload!r}")
                return payload.decode()

            await self.talk(kind, said, exchange)
            writer.write(frame(8, b"\x03\xe8"))
            if (await asyncio.wait_for(receive(), LIMIT))[0] != 8:
                raise Cut("no end")
        finally:
            writer.close()

    def calls(self):
        channel = grpc.aio.insecure_channel(f"{self.address}:80", options=[("grpc.default_authority", HOST), ("grpc.use_local_subchannel_pool", 1)])
        method = channel.stream_stream("/shop.Chat/Talk")

        async def call(kind, said):
            stream = method(wait_for_ready=True)

            async def exchange(text):
                line = text.encode()
                await stream.write(b"\n" + bytes([len(line)]) + line)
                answer = await stream.read()
                return answer[2:].decode() if answer is not grpc.aio.EOF else f"the end, {await stream.code()} {await stream.details()}"

            try:
                await self.talk(kind, said, exchange)
                await stream.done_writing()
                rest = await asyncio.wait_for(stream.read(), LIMIT)
                if rest is not grpc.aio.EOF or await stream.code() != grpc.StatusCode.OK:
                    raise Cut(f"{rest!r} {await stream.code()}")
            finally:
                stream.cancel()

        return call

    async def ask(self, reader, writer, line, headers=""):
        """Status, headers in lower case, body."""
        writer.write(f"{line} HTTP/1.1\r\nHost: {HOST}\r\n{headers}{'Content-Length: 0' + chr(13) + chr(10) if line.startswith('POST') else ''}\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)).decode()
        lines = [one.partition(": ") for one in head.split("\r\n")[1:-2]]
        length = next(int(value) for name, _, value in lines if name.lower() == "content-length")
        return int(head.split()[1]), [(name.lower(), value) for name, _, value in lines], await asyncio.wait_for(reader.readexactly(length), LIMIT)

    async def visit(self, kind, said):
        said[:] = time.time(), said[1] + 1
        kind.requests += 1
        reader, writer = await self.connect(self.tls)
        try:
            status, _, body = await self.ask(reader, writer, "GET /healthz", "Connection: close\r\n")
            if (status, body) != (200, b"ok\n"):
                raise Cut(f"{status} {body!r}")
        finally:
            writer.close()
        await asyncio.sleep(0.1)

    async def shop(self, kind, said):
        """One of the shop's sessions: the cart grows by one with each request, and is bought at the end."""
        cookies, items, session, pod = {}, 0, None, None
        reader = writer = None
        until = time.monotonic() + random.uniform(SHORTEST, self.longest)
        try:
            while True:
                last = time.monotonic() >= until or self.ended.is_set()
                if writer is None:
                    reader, writer = await self.connect()
                said[:] = time.time(), said[1] + 1
                kind.requests += 1
                jar = "Cookie: " + "; ".join(f"{k}={v}" for k, v in cookies.items()) + "\r\n" if cookies else ""
                status, headers, body = await self.ask(reader, writer, "POST /checkout" if last and items else "POST /cart?item=tea", jar)
                if status != 200:
                    raise Cut(f"{status} {body[:80]!r}")
                for name, value in headers:
                    if name == "set-cookie":
                        key, _, rest = value.partition("=")
                        cookies[key] = rest.partition(";")[0]
                told = json.loads(body)
                if last and items:
                    if told["bought"] != items:
                        raise Cut(f"bought {told['bought']} of {items}")
                    return
                items += 1
                if told["items"] != items or told["session"] != (session or told["session"]):
                    raise Cut(f"the cart is lost: {items - 1} in it by {pod} ({jar.strip()}), then {told}")
                session, pod = told["session"], told["pod"]
                if ("connection", "close") in headers or random.random() < 0.2:
                    writer.close()
                    writer = None
                await asyncio.sleep(random.uniform(0.1, 0.7))
        finally:
            if writer:
                writer.close()


async def main(address, longest, wanted):
    clients, loop = Clients(address, longest), asyncio.get_running_loop()
    loop.add_reader(sys.stdin, clients.ended.set)
    make = {"chats": lambda: clients.chat, "calls": clients.calls, "visitors": lambda: clients.visit, "shoppers": lambda: clients.shop}
    tasks = [asyncio.create_task(clients.repeat(name, make[name]())) for name, count in wanted.items() for _ in range(count)]
    print("running", flush=True)
    await asyncio.gather(*tasks)
    print(json.dumps({name: kind.told() for name, kind in clients.kinds.items()}), flush=True)


asyncio.run(main(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])))
