"""What stands between a farm and the services that its sidecars ask, and does on order what no service should.

`Between` carries bytes to a server, TCP or unix socket, and may refuse, hang, cut off or bend them. `Provider` is a
remote moderation provider, honest until told otherwise; it keeps which texts it judged honestly.
"""
import asyncio
import contextlib
import http.server
import json
import threading
import time

PIECE = 64 << 10
#: Pieces below this are heads of HTTP, which a server that lies gets right.
BENT_FROM = 2048
CATEGORIES = ["harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
              "self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence",
              "violence/graphic"]
BUSY = b"HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Between:
    """In front of one server. `how`: pass, gone, busy (503), hang, cut (the first 100 KB), bend up or down."""

    def __init__(self, target, listen=None, bent_from=BENT_FROM):
        self.target, self.how, self.bent_from = target, "pass", bent_from
        self.bent, self.open = 0, set()
        self.loop = asyncio.new_event_loop()
        self.address = self.loop.run_until_complete(self._listen(listen))
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def _listen(self, path):
        if path:
            self.server = await asyncio.start_unix_server(self._serve, path)
            return path
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return "127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]

    def set(self, how, target=None):
        """Also for the connections that are open: they close."""
        self.how, self.target = how, target or self.target
        self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in list(self.open)])

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self.open.add(task)
        try:
            await self._carry(self.how, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(task)
            writer.close()

    async def _carry(self, how, reader, writer):
        if how == "gone":
            return
        if how == "busy":
            if await reader.read(PIECE):
                writer.write(BUSY)
                await writer.drain()
                while await reader.read(PIECE):
                    pass
            return
        if how == "hang":
            while await reader.read(PIECE):
                pass
            await asyncio.Event().wait()
        dial = asyncio.open_unix_connection(self.target) if isinstance(self.target, (str, bytes)) else \
            asyncio.open_connection(*self.target)
        answers, requests = await dial
        most = 100 << 10 if how == "cut" else None
        ways = [asyncio.ensure_future(self._pump(reader, requests, how == "bend up", most)),
                asyncio.ensure_future(self._pump(answers, writer, how == "bend down", None))]
        try:
            # The answer may come after the question's end; a cut ends both.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED if how == "cut" else asyncio.ALL_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            requests.close()

    async def _pump(self, reader, writer, bend, most):
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                if bend and len(piece) >= self.bent_from:
                    piece, step = bytearray(piece), len(piece) // 8
                    piece[step::step] = bytes(byte ^ 1 for byte in piece[step::step])
                    self.bent += 1
                writer.write(piece)
                await writer.drain()
                if most is not None:
                    most -= len(piece)
                    if most <= 0:
                        break
        with contextlib.suppress(OSError):
            writer.write_eof() if writer.can_write_eof() else writer.close()


class Provider(http.server.ThreadingHTTPServer):
    """`how`: honest, gone, hang, fail (500), empty, short (a category is missing), wild (a score that cannot be),
    two-faced (it contradicts itself)."""

    daemon_threads = True

    def __init__(self, flagged):
        self.flagged, self.how, self.judged, self.lies = flagged, "honest", set(), 0
        super().__init__(("127.0.0.1", 0), _Answers)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1/moderations"

    def handle_error(self, request, client_address):
        """A caller that hung up while it was lied to is no news."""


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802, as the library calls it
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        how = self.server.how
        if how == "honest":
            # First known as judged, then said: a witness must not know less than the farm.
            self.server.judged.update(texts)
            return self.say(200, {"results": [self.result(text) for text in texts]})
        self.server.lies += 1
        if how == "gone":
            self.close_connection = True
            return None
        if how == "hang":
            while self.server.how == "hang":
                time.sleep(0.1)
            self.close_connection = True
            return None
        if how == "fail":
            return self.say(500, {"error": {"message": "no"}})
        results = [] if how == "empty" else [self.result(text, honest=False) for text in texts]
        for result in results:
            if how == "short":
                del result["category_scores"]["sexual/minors"]
            elif how == "wild":
                result["category_scores"]["hate"] = 1.5
            else:
                result["flagged"] = not result["flagged"]
        return self.say(200, {"results": results})

    def result(self, text, honest=True):
        bad = honest and self.server.flagged in text
        return {"flagged": bad, "categories": {name: bad and name == "hate" for name in CATEGORIES},
                "category_scores": {name: 0.99 if bad and name == "hate" else 0.01 for name in CATEGORIES}}

    def say(self, status, body):
        body = json.dumps({"id": "modr-1", "model": "m", **body}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Not on our standard error."""
