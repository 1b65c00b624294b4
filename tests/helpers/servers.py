"""Real servers on loopback, and a proxy that notes what they are asked and can be busy."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from transformers import GenerationConfig

from privcode.models import load_model, load_tokenizer

START = 600  # seconds, on a machine that does other things


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def plain_folder(folder: Path, name: str = "bundled:junior") -> Path:
    """A model that a server samples from as it is: without top_k, which transformers sets to 50."""
    model, tokenizer = load_model(name), load_tokenizer(name)
    model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Server:
    """A process that serves a model: started, killed and started again on one port."""

    command: Sequence[str]
    log: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    process: Any = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=os.environ | self.environment
            )
        until = time.monotonic() + START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(
                    f"{self.command[0]} did not start: {self.log.read_text()[-3000:]}"
                )
            time.sleep(0.2)

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End it at once, as a machine that loses its power does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it, and let it end the processes that it started."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def transformers_server(model: Path, log: Path) -> Iterator[Server]:
    """`transformers serve` of a folder, which it calls by the folder's path."""
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    script = Path(sys.executable).with_name("transformers")
    server = Server([str(script), "serve", *where, str(model)], log, port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Proxy:
    """Hands requests on, and notes each: (body, status that the client got).

    Attributes:
        target: port of the server behind it.
        at_once: requests that it hands on at once. It answers 503 to more.
        fail: the status of every answer, if not 0.
    """

    target: int
    at_once: int = 1000
    fail: int = 0
    noted: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    most: int = 0  # at once, that were handed on
    port: int = 0
    _inside: int = 0
    _lock: Lock = field(default_factory=Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answered(self) -> list[str]:
        """The requests that got an answer."""
        return [json.dumps(body, sort_keys=True) for body, status in self.noted if status == 200]

    def ask(self, path: str, data: bytes) -> tuple[int, bytes]:
        with self._lock:
            self._inside += 1
            busy = self._inside > self.at_once
            if not busy and not self.fail:
                self.most = max(self.most, self._inside)
        try:
            if self.fail or busy:
                return self.fail or 503, b'{"error": {"message": "sk-secret-in-an-answer"}}'
            connection = HTTPConnection("127.0.0.1", self.target, timeout=120)
            try:
                connection.request("POST", path, data, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()
        except OSError:
            return 0, b""
        finally:
            with self._lock:
                self._inside -= 1


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    made = Proxy(target)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            made.keys.add(self.headers.get("Authorization", ""))
            status, answer = made.ask(self.path, data)
            if not status:  # as if the server were not there
                self.close_connection = True
            else:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            made.noted.append((json.loads(data), status))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
