"""Files that were made to do harm are decoded or refused, and nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from app.domain.errors import UndecodableAudio
from app.transcription.decoding import Decoder
from tests.support.canaries import SECRET, canary_wav, contains_canary, watch_opens, write_canaries
from tests.support.fuzzing import fuzz
from tests.support.honeypot import honeypot
from tests.support.hostile_files import handwritten_files, mutant_series, mutants
from tests.support.memory import resident_mib
from tests.support.originals import KINDS, originals
from tests.support.program import program
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.honeypot import Honeypot
    from tests.support.hostile_files import HostileFile
    from tests.support.program import Program

pytestmark = pytest.mark.anyio

SEED: Final = 20_250_309
#: The number of files that are decoded without and with --long.
FUZZED_FILES: Final = {False: 60, True: 20_000}
#: Files that are decoded at once.
JOBS: Final = 2
GROWTH_MIB: Final = 20.0


@pytest.mark.full(reason="takes more than a second")
def test_originals_are_reproducible(tmp_path: Path) -> None:
    first, second = originals(tmp_path), originals(tmp_path)

    assert first == second
    assert len(first) == len(KINDS) + 3  # and those that PyAV does not write


@pytest.mark.full(reason="makes three hundred files")
def test_mutant_is_determined_by_its_seed_and_number(tmp_path: Path) -> None:
    base_files = originals(tmp_path)
    first, same, other = (mutant_series(base_files, seed=seed) for seed in (1, 1, 2))

    assert [first[number] for number in range(100)] == [same[number] for number in range(100)]
    assert len({first[number].content for number in range(100)}) > 95
    assert first[7] != other[7]


@pytest.mark.full(reason="decodes 53 files of formats that other tests decode too")
async def test_every_original_is_decoded(tmp_path: Path) -> None:
    decoder, at_once = Decoder(max_seconds=60), asyncio.Semaphore(JOBS)

    async def duration(name: str, content: bytes) -> float:
        source = tmp_path / name
        await asyncio.to_thread(source.write_bytes, content)
        async with at_once:
            return (await decoder.decode(source, source.with_suffix(".pcm"))).duration

    base_files = await asyncio.to_thread(originals, tmp_path)
    durations = await asyncio.gather(*(duration(name, content) for name, content in base_files.items()))

    expected = dict.fromkeys(base_files, 1.0) | {"ogg-chained": 3.0}
    assert dict(zip(base_files, durations, strict=True)) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("name", ["loud.ts", "loud.mp3", "loud.mov", "loud.wav"])
async def test_decoded_canary_is_detected(name: str, tmp_path: Path) -> None:
    await asyncio.to_thread(write_canaries, tmp_path)
    await Decoder(max_seconds=60).decode(tmp_path / name, tmp_path / "pcm")

    assert await asyncio.to_thread(contains_canary, tmp_path / "pcm")


async def test_quarter_of_a_second_of_a_canary_is_detected(tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "part.wav").write_bytes, canary_wav(0.25))
    await Decoder(max_seconds=60).decode(tmp_path / "part.wav", tmp_path / "pcm")

    assert await asyncio.to_thread(contains_canary, tmp_path / "pcm")


def test_canary_text_and_opened_files_are_detected(tmp_path: Path) -> None:
    (tmp_path / "pcm").write_text(f"...{SECRET}...")
    assert contains_canary(tmp_path / "pcm")

    with watch_opens(write_canaries(tmp_path)) as watch:
        if watch is None:
            pytest.skip("only Linux reports opened files")
        assert watch.opened == 0
        (tmp_path / "loud.ts").read_bytes()
        assert watch.opened == 1


async def test_connections_are_counted(tmp_path: Path) -> None:
    async with honeypot(tmp_path) as trap:
        _, writer = await asyncio.open_connection("127.0.0.1", trap.tcp)
        writer.close()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", trap.udp)
        )
        transport.sendto(b"x")
        await eventually(lambda: trap.connections == 2)
        transport.close()


@pytest.mark.parametrize("number", [5_207, 12_995])
@pytest.mark.full(reason="takes more than a second")
async def test_stream_that_appears_midway_is_not_a_decoder_failure(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base_files = await asyncio.to_thread(originals, tmp_path)
    source = tmp_path / "film.flv"
    await asyncio.to_thread(source.write_bytes, mutant_series(base_files, seed=1)[number].content)

    with contextlib.suppress(UndecodableAudio):
        await Decoder(max_seconds=60).decode(source, tmp_path / "pcm")

    assert "The decoder failed" not in caplog.text


@pytest.mark.timeout(3600)
@pytest.mark.full(reason="decodes dozens of files")
async def test_hostile_files_are_decoded_or_refused(tmp_path: Path, *, long: bool) -> None:
    files = FUZZED_FILES[long]
    memory: list[float] = []

    def note(done: int) -> None:
        if done in (files * 6 // 10, files):
            memory.append(resident_mib())

    findings = await fuzz(tmp_path, files=files, seed=SEED, jobs=JOBS, large=long, on_done=note)

    assert findings.violations() == []
    assert findings.files == files
    assert findings.outcomes["decoded"] > files // 10
    assert findings.outcomes["refused"] > files // 10
    assert findings.outcomes["too long"] > 0
    assert memory[1] - memory[0] < GROWTH_MIB


async def send(running: Program, client: httpx.AsyncClient, path: Path, **fields: str) -> httpx.Response:
    content = await asyncio.to_thread(path.read_bytes)
    url = running.client.base_url.join("/v1/audio/transcriptions")
    return await client.post(url, files={"file": ("a.wav", content)}, data=fields, timeout=300)


def complaint(response: httpx.Response, file: HostileFile) -> str | None:
    """Return a sentence if the response to a file is wrong."""
    if SECRET[:20] in response.text:
        return f"{file.name}: a canary file is in the response"
    if response.status_code == 200 and not file.is_list:
        return None
    if not 400 <= response.status_code < 500:
        return f"{file.name}: {response.status_code} {response.text[:200]}"
    error: dict[str, Any] = response.json().get("error", {})
    return None if set(error) == {"message", "type", "param", "code"} else f"{file.name}: {response.text[:200]}"


async def send_all(running: Program, trap: Honeypot, files: list[HostileFile]) -> list[str]:
    """Send files, ``JOBS`` at a time, and return the complaints."""
    complaints: list[str] = []
    remaining = iter(enumerate(files))

    async def send_remaining(client: httpx.AsyncClient) -> None:
        for number, file in remaining:
            path = await asyncio.to_thread(trap.write, f"sent-{number}", file.parts())
            sentence = complaint(await send(running, client, path), file)
            await asyncio.to_thread(path.unlink)
            if sentence:
                complaints.append(sentence)

    async with httpx.AsyncClient(trust_env=False) as client, asyncio.TaskGroup() as group:
        for _ in range(JOBS):
            group.create_task(send_remaining(client))
    return complaints


@pytest.mark.full(reason="sends more than a hundred files to a service")
@pytest.mark.timeout(900)
async def test_service_responds_to_hostile_files_and_keeps_running(
    tmp_path: Path, samples: Path, references: dict[str, dict[str, Any]], *, long: bool
) -> None:
    folder, data = tmp_path / "files", tmp_path / "program"
    for directory in (folder, data):
        await asyncio.to_thread(directory.mkdir)
    base_files = await asyncio.to_thread(originals, folder)
    async with honeypot(folder) as trap:
        handwritten = list(handwritten_files(trap, base_files, large=long))[:: 1 if long else 4]
        files = [*mutants(mutant_series(base_files, seed=SEED), range(600 if long else 40)), *handwritten]
        # The first third has files of each kind, so that later ones use nothing for the first time.
        files = [*itertools.chain.from_iterable(files[start::10] for start in range(10))]
        with program(data, MAX_AUDIO_SECONDS="20") as running:
            await asyncio.to_thread(running.until_ready)
            warm = len(files) // 3
            complaints = await send_all(running, trap, files[:warm])
            before = resident_mib(running.process.pid)
            complaints += await send_all(running, trap, files[warm:])
            growth = resident_mib(running.process.pid) - before

            async with httpx.AsyncClient(trust_env=False) as client:
                response = await send(running, client, samples / "hello.wav", response_format="json")
            assert not running.has_ended
            log = await asyncio.to_thread(running.log.read_text)
        opened = trap.watch.opened if trap.watch else 0

    assert complaints == []
    assert json.loads(response.text)["text"].strip() == references["hello.wav"]["text"]
    assert (trap.connections, opened) == (0, 0)
    assert growth < GROWTH_MIB
    assert "Traceback" not in log
    assert SECRET[:20] not in log
