"""A common kind of server, a semaphore around ``WhisperModel.transcribe`` in threads, for comparison only.

python -m benchmarks.plain_server MODEL DEVICE COMPUTE_TYPE PORT
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File
from faster_whisper import WhisperModel

app = FastAPI()
slots = asyncio.Semaphore(3)
location, device, compute_type, port = sys.argv[1:]
model = WhisperModel(location, device=device, compute_type=compute_type, cpu_threads=os.cpu_count() or 1)


def transcribe_file(content: bytes) -> str:
    segments, _ = model.transcribe(io.BytesIO(content), beam_size=5, vad_filter=True)
    return "".join(segment.text for segment in segments)


@app.post("/v1/audio/transcriptions")
async def transcribe(file: Annotated[bytes, File()]) -> dict[str, str]:
    async with slots:
        return {"text": await asyncio.to_thread(transcribe_file, file)}


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    return {"status": "healthy"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
