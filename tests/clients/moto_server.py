"""Moto as an S3 server, with conditional writes that are one step, as those of a real bucket are.

Moto looks whether an object is there and writes it in two steps, so of two writers at the same time both can win.

    moto_server.py -H HOST -p PORT
"""
import threading

import moto.server


class OneAtATime(moto.server.DomainDispatcherApplication):
    conditional = threading.Lock()

    def __call__(self, environ, start_response):
        if "HTTP_IF_NONE_MATCH" not in environ and "HTTP_IF_MATCH" not in environ:
            return super().__call__(environ, start_response)
        with self.conditional:
            return super().__call__(environ, start_response)


moto.server.DomainDispatcherApplication = OneAtATime
moto.server.main()
