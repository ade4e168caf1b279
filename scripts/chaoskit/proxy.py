"""A network that misbehaves on order: a proxy for UDP between workers and a coordinator, on the loopback device."""
import asyncio
import random
import threading


class Network:
    """What happens to packets at the moment, for all proxies."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.heal()

    def heal(self):
        self.delay_ms, self.loss, self.double, self.up, self.down = 0, 0.0, 0.0, True, True

    def fates(self, upward):
        """After how many seconds each copy of a packet arrives."""
        if not (self.up if upward else self.down) or self.random.random() < self.loss:
            return []
        copies = 2 if self.random.random() < self.double else 1
        # A delay that differs from packet to packet also changes their order.
        return [self.random.uniform(0.5, 1.5) * self.delay_ms / 1000 for _ in range(copies)]


class _Upstream(asyncio.DatagramProtocol):
    def __init__(self, proxy, client):
        self.proxy, self.client = proxy, client

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, _address):
        self.proxy.later(False, lambda: self.proxy.transport.sendto(data, self.client))


class _Proxy(asyncio.DatagramProtocol):
    def __init__(self, network, target):
        self.network, self.target, self.upstreams, self.waiting = network, target, {}, {}

    def connection_made(self, transport):
        self.transport = transport

    def later(self, upward, send):
        loop = asyncio.get_running_loop()
        for after in self.network.fates(upward):
            if after:
                loop.call_later(after, send)
            else:
                send()

    def datagram_received(self, data, client):
        upstream = self.upstreams.get(client)
        if upstream:
            self.later(True, lambda: upstream.sendto(data))
        elif client in self.waiting:
            self.waiting[client].append(data)
        else:
            self.waiting[client] = [data]
            asyncio.get_running_loop().create_task(self.open(client))

    async def open(self, client):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Upstream(self, client), remote_addr=self.target)
        self.upstreams[client] = transport
        for data in self.waiting.pop(client):
            transport.sendto(data)


def serve(network, links):
    """Starts a proxy in front of each `HOST:PORT`; gives the addresses to dial instead."""
    loop = asyncio.new_event_loop()

    async def start():
        addresses = []
        for link in links:
            host, port = link.rsplit(":", 1)
            target = (host, int(port))
            transport, _ = await loop.create_datagram_endpoint(lambda t=target: _Proxy(network, t),
                                                               local_addr=("127.0.0.1", 0))
            addresses.append("127.0.0.1:%d" % transport.get_extra_info("sockname")[1])
        return addresses

    addresses = loop.run_until_complete(start())
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return addresses
