"""What is no HTTP, told in the same envelope as every other error."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.errors import envelope


class EnvelopeProtocol(H11Protocol):
    """uvicorn's h11 protocol, but its own 400 is ours."""

    def send_400_response(self, msg: str) -> None:
        """Called for bytes that are no HTTP request, after which nothing on this connection can be understood."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = envelope(400, f"{msg} Send a request as HTTP/1.1 has it, with headers of at most 64 KiB in all.")
            headers = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
