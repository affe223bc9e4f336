"""A proxy on loopback that keeps every byte which clients send to a server."""

import base64
import re
import socket
import socketserver
import threading
from collections.abc import Callable


class RecordingProxy:
    """Forwards connections to a port of this machine, and records what goes there."""

    def __init__(self, port: int) -> None:
        sent: list[bytearray] = []

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                recorded = bytearray()
                sent.append(recorded)
                with socket.create_connection(("127.0.0.1", port)) as server:
                    answers = threading.Thread(target=_forward, args=(server, self.request, len))
                    answers.start()
                    _forward(self.request, server, recorded.extend)
                    answers.join()

        self._sent = sent
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def sent(self) -> bytes:
        """Return everything that clients sent, and once more, decoded, what they sent in base64."""
        raw = b"\n".join(map(bytes, self._sent))
        contents = re.findall(rb'"content": ?"([A-Za-z0-9+/=]+)"', raw)
        return b"\n".join([raw, *map(base64.b64decode, contents)])

    def close(self) -> None:
        """Wait for open connections and stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _forward(source: socket.socket, sink: socket.socket, keep: Callable[[bytes], object]) -> None:
    try:
        while data := source.recv(1 << 16):
            keep(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return  # either side went away
