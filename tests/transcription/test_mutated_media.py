"""Thousands of files that were made to do harm: each is decoded or refused, and nothing else happens."""

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
from tests.support.foreign import SECRET, is_heard, loud_wav, watching, write_foreign
from tests.support.foreign_place import place
from tests.support.gauntlet import run_gauntlet
from tests.support.hostile_files import handmade, mutants, series
from tests.support.memory import resident_mib
from tests.support.originals import KINDS, originals
from tests.support.program import program
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.foreign_place import Place
    from tests.support.hostile_files import Hostile
    from tests.support.program import Program

pytestmark = pytest.mark.anyio

SEED: Final = 20_250_309
#: Decoded at once.
JOBS: Final = 2
GROWTH_MIB: Final = 20.0


def test_an_original_is_the_same_bytes_whenever_it_is_made(tmp_path: Path) -> None:
    first, second = originals(tmp_path), originals(tmp_path)

    assert first == second
    assert len(first) == len(KINDS)


def test_a_mutant_follows_from_its_seed_and_number(tmp_path: Path) -> None:
    whole = originals(tmp_path)
    first, again, other = (series(whole, seed=seed) for seed in (1, 1, 2))

    assert [first[number] for number in range(100)] == [again[number] for number in range(100)]
    assert len({first[number].content for number in range(100)}) > 95
    assert first[7] != other[7]


async def test_every_original_is_decoded(tmp_path: Path) -> None:
    decoder, at_once = Decoder(max_seconds=60), asyncio.Semaphore(JOBS)

    async def duration(name: str, content: bytes) -> float:
        source = tmp_path / name
        await asyncio.to_thread(source.write_bytes, content)
        async with at_once:
            return (await decoder.decode(source, source.with_suffix(".pcm"))).duration

    whole = await asyncio.to_thread(originals, tmp_path)
    found = await asyncio.gather(*(duration(name, content) for name, content in whole.items()))

    assert dict(zip(whole, found, strict=True)) == pytest.approx(dict.fromkeys(whole, 1.0), abs=0.15)


@pytest.mark.parametrize("name", ["loud.ts", "loud.mp3", "loud.mov", "loud.wav"])
async def test_a_foreign_sound_would_be_heard(name: str, tmp_path: Path) -> None:
    await asyncio.to_thread(write_foreign, tmp_path)
    await Decoder(max_seconds=60).decode(tmp_path / name, tmp_path / "pcm")

    assert await asyncio.to_thread(is_heard, tmp_path / "pcm")


async def test_a_quarter_of_a_second_of_it_would_be_heard(tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "part.wav").write_bytes, loud_wav(0.25))
    await Decoder(max_seconds=60).decode(tmp_path / "part.wav", tmp_path / "pcm")

    assert await asyncio.to_thread(is_heard, tmp_path / "pcm")


def test_a_foreign_text_would_be_heard_and_an_opened_file_be_seen(tmp_path: Path) -> None:
    (tmp_path / "pcm").write_text(f"...{SECRET}...")
    assert is_heard(tmp_path / "pcm")

    with watching(write_foreign(tmp_path)) as watch:
        if watch is None:
            pytest.skip("only Linux tells of opened files")
        assert watch.opened == 0
        (tmp_path / "loud.ts").read_bytes()
        assert watch.opened == 1


async def test_who_connects_would_be_counted(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        _, writer = await asyncio.open_connection("127.0.0.1", here.tcp)
        writer.close()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", here.udp)
        )
        transport.sendto(b"x")
        await eventually(lambda: here.connections == 2)
        transport.close()


@pytest.mark.parametrize("number", [5_207, 12_995])
async def test_a_stream_that_comes_up_late_is_no_failure_of_the_decoder(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = await asyncio.to_thread(originals, tmp_path)
    source = tmp_path / "film.flv"
    await asyncio.to_thread(source.write_bytes, series(whole, seed=1)[number].content)

    with contextlib.suppress(UndecodableAudio):
        await Decoder(max_seconds=60).decode(source, tmp_path / "pcm")

    assert "The decoder failed" not in caplog.text


@pytest.mark.timeout(3600)
async def test_hostile_files_are_decoded_or_refused_and_nothing_else_happens(tmp_path: Path, *, long: bool) -> None:
    files = 20_000 if long else 1_000
    memory: list[float] = []

    def note(done: int) -> None:
        if done in (files * 6 // 10, files):
            memory.append(resident_mib())

    found = await run_gauntlet(tmp_path, files=files, seed=SEED, jobs=JOBS, large=long, on_done=note)

    assert found.breaches() == []
    assert found.files == files
    assert found.outcomes["decoded"] > files // 10
    assert found.outcomes["refused"] > files // 10
    assert found.outcomes["too long"] > 0
    assert memory[1] - memory[0] < GROWTH_MIB


async def send(running: Program, client: httpx.AsyncClient, path: Path, **fields: str) -> httpx.Response:
    content = await asyncio.to_thread(path.read_bytes)
    url = running.client.base_url.join("/v1/audio/transcriptions")
    return await client.post(url, files={"file": ("a.wav", content)}, data=fields, timeout=120)


def complaint(answer: httpx.Response, file: Hostile) -> str | None:
    """What is wrong with this answer to that file."""
    if SECRET[:20] in answer.text:
        return f"{file.name}: a foreign file is in the answer"
    if answer.status_code == 200 and not file.is_list:
        return None
    if not 400 <= answer.status_code < 500:
        return f"{file.name}: {answer.status_code} {answer.text[:200]}"
    error: dict[str, Any] = answer.json().get("error", {})
    return None if set(error) == {"message", "type", "param", "code"} else f"{file.name}: {answer.text[:200]}"


async def send_all(running: Program, here: Place, files: list[Hostile]) -> list[str]:
    """Sends them, two at a time, and gives all complaints."""
    complaints: list[str] = []
    waiting = iter(enumerate(files))

    async def work(client: httpx.AsyncClient) -> None:
        for number, file in waiting:
            path = await asyncio.to_thread(lambda: here.write(f"sent-{number}", file.parts()))  # noqa: B023 - awaited here
            wrong = complaint(await send(running, client, path), file)
            await asyncio.to_thread(path.unlink)
            if wrong:
                complaints.append(wrong)

    async with httpx.AsyncClient(trust_env=False) as client, asyncio.TaskGroup() as group:
        for _ in range(JOBS):
            group.create_task(work(client))
    return complaints


@pytest.mark.timeout(900)
async def test_the_service_answers_hostile_files_and_goes_on(
    tmp_path: Path, samples: Path, references: dict[str, dict[str, Any]], *, long: bool
) -> None:
    folder, data = tmp_path / "files", tmp_path / "program"
    for made in (folder, data):
        await asyncio.to_thread(made.mkdir)
    whole = await asyncio.to_thread(originals, folder)
    async with place(folder) as here:
        made_up = mutants(series(whole, seed=SEED), range(600 if long else 40))
        # All of them go through the decoder in another test.
        thought_of = list(handmade(here, whole, large=long))[:: 1 if long else 4]
        files = [*made_up, *thought_of]
        # Those that come first have some of each kind, so that afterwards nothing is used for the first time.
        files = [*itertools.chain.from_iterable(files[start::10] for start in range(10))]
        with program(data, MAX_AUDIO_SECONDS="20") as running:
            await asyncio.to_thread(running.until_ready)
            warm = len(files) // 3
            complaints = await send_all(running, here, files[:warm])
            before = resident_mib(running.process.pid)
            complaints += await send_all(running, here, files[warm:])
            growth = resident_mib(running.process.pid) - before

            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await send(running, client, samples / "hello.wav", response_format="json")
            assert not running.has_ended
            log = await asyncio.to_thread(running.log.read_text)
        opened = here.watch.opened if here.watch else 0

    assert complaints == []
    assert json.loads(answer.text)["text"].strip() == references["hello.wav"]["text"]
    assert (here.connections, opened) == (0, 0)
    assert growth < GROWTH_MIB
    assert "Traceback" not in log
    assert SECRET[:20] not in log
