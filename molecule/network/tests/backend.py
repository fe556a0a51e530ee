"""Stands in for the hub (port 8081) and a session (8888): plain answers, a 503 of its own, uploads, a web socket that echoes."""

import base64
import hashlib
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        key = self.headers.get("Sec-WebSocket-Key")
        if key:
            accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", accept)
            self.end_headers()
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
            self.close_connection = True
        elif "unavailable" in self.path:
            self.answer(503, "the hub's own words")
        else:
            self.answer(200, f"backend {self.server.server_address[1]}")

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        seen = 0
        while seen < length and (data := self.rfile.read1(65536)):
            seen += len(data)
        self.answer(200, f"{seen} bytes")

    def log_message(self, *_: object) -> None:
        pass


socketserver.TCPServer.allow_reuse_address = True
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
