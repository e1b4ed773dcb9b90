"""Stand-ins for image vendors: a local server that speaks the wire formats of OpenAI and of Gemini.

What it sends is a plain page whose colour is named in the prompt. Tests put other replies before that one,
prompt by prompt, and read what was asked.
"""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

PAGE = (32, 24)
REVISED = "in the style of a woodcut: "


@dataclass(frozen=True)
class Reply:
    """One answer of the server; `body` is JSON, or bytes as they are."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """How long the server thinks."""


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class VendorStandIn:
    """The server: `replies` holds, by prompt, what is sent before a picture; `asked` all requests."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[Asked] = []
        self.busiest = 0
        self._busy, self._lock = 0, threading.Lock()

    def reply(self, asked: Asked) -> Reply:
        prompt = _prompt(asked)
        with self._lock:
            self.asked.append(asked)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            waiting = self.replies.get(prompt)
            reply = waiting.pop(0) if waiting else _success(asked, prompt, self.address)
        time.sleep(reply.seconds)
        with self._lock:
            self._busy -= 1
        return reply


@contextmanager
def vendor_stand_in() -> Iterator[VendorStandIn]:
    """Run the server on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StandInHandler)
    server.daemon_threads = True
    server.stand_in = VendorStandIn(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page(colour: str = "red", size: tuple[int, int] = PAGE, kind: str = "PNG") -> bytes:
    """Return a plain page as the bytes of a picture."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def openai_error(status: int, code: str | None, message: str = "no", **headers: str) -> Reply:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def openai_picture(content: bytes) -> Reply:
    return Reply(body={"created": 1, "data": [{"b64_json": encoded(content)}]})


def openai_address(address: str) -> Reply:
    return Reply(body={"created": 1, "data": [{"url": address}]})


def openai_words(
    text: str | None, likely: Mapping[str, float] | None = None, refusal: str | None = None
) -> Reply:
    """Return an answer in words; `likely` are log-probabilities of its first token and the others."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": refusal},
        "finish_reason": "stop" if text else "length",
    }
    if likely is not None:
        top = [{"token": token, "logprob": chance, "bytes": None} for token, chance in likely.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "stand-in-1", "choices": [choice]}
    return Reply(body=body)


def gemini_error(status: int, name: str, message: str = "no", delay: str | None = None) -> Reply:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}] if delay else []
    return Reply(status, {"error": {"code": status, "message": message, "status": name, "details": details}})


def gemini_blocked(block: str) -> Reply:
    return Reply(body={"promptFeedback": {"blockReason": block}})


def gemini_ended(finish: str, *parts: Mapping[str, Any]) -> Reply:
    content = {"role": "model", "parts": list(parts)}
    return Reply(body={"candidates": [{"content": content, "finishReason": finish, "index": 0}]})


def _success(asked: Asked, prompt: str, address: str) -> Reply:
    colour = next((word for word in prompt.split() if word in ("red", "blue", "green")), "grey")
    content = encoded(page(colour))
    if asked.path.endswith("/chat/completions"):
        return openai_words("A plain page.")
    if asked.path.endswith(":generateContent"):
        words = "image" not in asked.path
        part = {"text": "A plain page."} if words else _inline(content)
        reply = gemini_ended("STOP", {"text": "a thought", "thought": True}, part)
        reply.body["usageMetadata"] = {"promptTokenCount": 9, "totalTokenCount": 1299}
        return reply
    if asked.path.endswith(":predict"):
        one = {"mimeType": "image/png", "bytesBase64Encoded": content, "prompt": REVISED + prompt}
        return Reply(body={"predictions": [one]})
    if asked.path.endswith(".png"):
        return Reply(body=page("green"), headers={"content-type": "image/png"})
    data: dict[str, Any] = {"b64_json": content}
    wanted = {} if b"form-data" in asked.headers["content-type"].encode() else asked.json
    if wanted.get("response_format") == "url":
        data = {"url": f"{address}/files/1.png"}
    if str(wanted.get("model", "")).startswith("dall-e-3"):
        data["revised_prompt"] = REVISED + prompt
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"text_tokens": 9, "image_tokens": 0},
        "output_tokens": 272,
        "total_tokens": 281,
    }
    return Reply(body={"created": 1, "data": [data], "usage": usage})


def _inline(content: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": content}}


def _prompt(asked: Asked) -> str:
    if not asked.body:
        return asked.path
    if "form-data" in asked.headers["content-type"]:
        return asked.body.partition(b'name="prompt"')[2].strip().partition(b"\r\n")[0].decode()
    body = asked.json
    if "instances" in body:
        return body["instances"][0]["prompt"]
    if "contents" in body:
        return next(part["text"] for part in body["contents"][0]["parts"] if "text" in part)
    if "messages" in body:
        return next(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text")
    return body["prompt"]


class _StandInHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.stand_in.reply(Asked(self.path, headers, self.rfile.read(length)))
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        try:
            self.send_response(reply.status)
            for name, value in ({"content-type": "application/json"} | dict(reply.headers)).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client stopped waiting

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
