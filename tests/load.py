"""A load of HTTP requests: load.py ADDRESS:PORT RATE. Half of them each on a new connection, half on ten that are kept.

Says "running", goes on until a line comes on stdin, then tells what was lost, a line each, and how many were sent. A kept connection that
the server has closed is no loss: a client may send such a request again on a new connection (RFC 9112, 9.3.1), and so does this."""

import asyncio
import sys
import time

KEPT = 10
LIMIT = 5


async def read_answer(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    body = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200 ") or not body.startswith(b"hello from pod"):
        raise ValueError(f"{head!r} {body!r}")
    return b"connection: close" not in head.lower()


class Load:
    def __init__(self, target, rate):
        self.host, _, port = target.rpartition(":")
        self.port, self.rate = int(port), rate
        self.sent, self.lost, self.idle = 0, [], []

    async def once(self, keep):
        request = f"GET / HTTP/1.1\r\nHost: {self.host}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode()
        while keep and self.idle:
            reader, writer = self.idle.pop(0)
            try:
                writer.write(request)
                if await read_answer(reader):
                    self.idle.append((reader, writer))
                return
            except asyncio.IncompleteReadError as e:
                writer.close()
                if e.partial:
                    raise
            except OSError:
                writer.close()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(request)
        kept = await read_answer(reader) and keep and len(self.idle) < KEPT
        if kept:
            self.idle.append((reader, writer))
        else:
            writer.close()

    async def counted(self, keep):
        self.sent += 1
        began = time.time()
        try:
            await asyncio.wait_for(self.once(keep), LIMIT)
        except Exception as e:
            self.lost.append(f"{'kept' if keep else 'new'} connection at {began:.3f}, after {1000 * (time.time() - began):.1f} ms: {e!r}")

    async def run(self, ended):
        print("running", flush=True)
        start, tasks, count = time.monotonic(), set(), 0
        while not ended.is_set():
            task = asyncio.create_task(self.counted(count % 2 == 1))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            count += 1
            # Behind its time it goes on from now: no burst.
            start = max(start, time.monotonic() - (count + 5) / self.rate)
            await asyncio.sleep(max(0, start + count / self.rate - time.monotonic()))
        await asyncio.gather(*tasks)
        for line in self.lost:
            print(line)
        print(self.sent, flush=True)


async def main():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    await Load(sys.argv[1], float(sys.argv[2])).run(ended)


asyncio.run(main())
