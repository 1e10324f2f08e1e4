"""Edits on disk and in the journal, also if the process dies or the disk is full in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from app.domain.corrections import NO_CORRECTIONS, Corrections
from app.domain.errors import DiskFull, EditConflict, UnknownJob
from app.jobs.space import disk_full
from tests.jobs.rig import open_rig, upload_to
from tests.support.fake_transcriber import GREETING
from tests.support.fault_server import answer, fault_server
from tests.support.scripted_journal import ScriptedJournal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.rig import Rig

pytestmark = pytest.mark.anyio


async def test_original_stays_beside_its_corrections(rig: Rig) -> None:
    job = await rig.submit()
    await rig.ended(job)
    edit = await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected=None)
    assert [segment.text for segment in edit.segments] == [" Hallo"]
    assert await rig.files(job) == ["corrections.json", "result.json"]
    original, _ = await asyncio.to_thread(rig.spool.result, job.id, original=True)
    assert original == GREETING
    edited, _ = await asyncio.to_thread(rig.spool.result, job.id)
    assert edited.text == "Hallo an alle."
    assert rig.now(job).edited_at == edit.corrections.edited_at
    await rig.edits.replace(job.id, NO_CORRECTIONS, expected={edit.corrections.version})
    assert await rig.files(job) == ["result.json"]
    assert rig.now(job).edited_at is None


async def test_names_alone_are_an_edit(rig: Rig) -> None:
    job = await rig.submit()
    await rig.ended(job)
    spoken = tuple(replace(segment, speaker="A") for segment in GREETING.segments)
    await asyncio.to_thread(rig.spool.store_result, job.id, replace(GREETING, segments=spoken), processing_time=1.0)
    edit = await rig.edits.replace(job.id, Corrections(speakers={"A": "Anna"}), expected={"0"})
    assert rig.now(job).edited_at == edit.corrections.edited_at is not None
    assert await rig.files(job) == ["corrections.json", "result.json"]
    named, _ = await asyncio.to_thread(rig.spool.result, job.id)
    assert [segment.speaker for segment in named.segments] == ["Anna", "Anna"]
    await rig.edits.replace(job.id, NO_CORRECTIONS, expected={edit.corrections.version})
    assert await rig.files(job) == ["result.json"]
    assert rig.now(job).edited_at is None


async def test_edit_that_the_journal_did_not_record_is_not_lost(tmp_path: Path) -> None:
    """The corrections are on disk first: a process that dies before the journal has them loses nothing."""
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal, forget=False) as rig:
        job = await rig.submit(keep_audio=True)
        await rig.ended(job)
        journal.failures.append(disk_full())
        with pytest.raises(DiskFull):
            await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected={"0"})
        assert journal.kept[job.id].edited_at is None
    async with open_rig(tmp_path, journal=journal) as rig:
        edit = await rig.edits.read(job.id)
        assert [segment.text for segment in edit.segments] == [" Hallo"]
        assert rig.now(job).edited_at == edit.corrections.edited_at is not None
        assert await rig.files(job) == ["audio", "corrections.json", "result.json", "waveform.json"]


async def test_same_edit_again_completes_one_that_failed(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig:
        job = await rig.submit()
        await rig.ended(job)
        journal.failures.append(disk_full())
        with pytest.raises(DiskFull):
            await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected=None)
        assert rig.now(job).edited_at is None
        edit = await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected=None)
        assert rig.now(job).edited_at == edit.corrections.edited_at is not None


async def test_unfinished_edit_leaves_the_one_before(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal, forget=False) as rig:
        job = await rig.submit()
        await rig.ended(job)
        before = await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected=None)
        (tmp_path / "jobs" / job.id / "corrections.partial").write_bytes(b'{"segm')
    async with open_rig(tmp_path, journal=journal) as rig:
        assert await rig.edits.read(job.id) == before
        assert await rig.files(job) == ["corrections.json", "result.json"]


async def test_edit_of_another_version_changes_nothing(rig: Rig) -> None:
    job = await rig.submit()
    await rig.ended(job)
    before = await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected={"0"})
    with pytest.raises(EditConflict):
        await rig.edits.replace(job.id, Corrections(texts={0: "Servus"}), expected={"0"})
    assert await rig.edits.read(job.id) == before


async def test_forgotten_job_cannot_be_edited(rig: Rig) -> None:
    job = await rig.submit()
    await rig.ended(job)
    await rig.intake.forget(job.id)
    with pytest.raises(UnknownJob):
        await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected=None)
    with pytest.raises(UnknownJob):
        await asyncio.to_thread(rig.spool.store_corrections, job.id, Corrections(texts={0: "x"}, edited_at=1.0))
    assert await rig.files(job) == []


async def test_corrections_go_with_the_result_that_they_correct(tmp_path: Path) -> None:
    """A result that is lost is transcribed again, and may be divided into other segments."""
    journal = ScriptedJournal()
    async with fault_server(answer(200)) as target:
        async with open_rig(tmp_path, journal=journal, forget=False) as rig:
            job = await rig.submit(keep_audio=True, **upload_to(target.url()))
            ended = await rig.ended(job)
            await rig.edits.replace(job.id, Corrections(texts={0: "Hallo"}), expected=None)
        (tmp_path / "jobs" / job.id / "result.json").unlink()
        journal.kept[job.id] = replace(ended.requeued(), delivery=ended.delivery)
        async with open_rig(tmp_path, journal=journal) as rig:
            assert rig.now(job).edited_at is None
            rig.runner.start(job.id)
            await rig.runner.outcome(job.id)
            transcript, _ = await asyncio.to_thread(rig.spool.result, job.id)
            assert transcript == GREETING
