"""Clients generated from ``/openapi.json``: they are complete, pass type checks, and work with the service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.transcription.models import MODEL_ALIASES
from tests.clients.description import Description
from tests.clients.programs import output_of

if TYPE_CHECKING:
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="generates and type-checks a client")]

HELLO = "hello this is a test the job is complete now"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the document, the generated code and the programs that use it."""
    return tmp_path_factory.mktemp("generated")


@pytest.fixture(scope="module")
async def description(running: Running, folder: Path) -> Description:
    """The OpenAPI document of the service, also in the file ``openapi.json``."""
    document = (await running.client.get("/openapi.json")).json()
    (folder / "openapi.json").write_text(json.dumps(document))
    return Description(document)


@pytest.fixture(scope="module")
async def package(description: Description, folder: Path) -> Path:  # noqa: ARG001  # writes the document
    """The Python package ``generated``, generated without a warning."""
    command = Path(sys.executable).with_name("openapi-python-client")
    assert command.exists(), "openapi-python-client is missing: pip install -e '.[dev]'"
    (folder / "generator.json").write_text(json.dumps({"post_hooks": []}))  # do not run ruff, which only formats
    package = folder / "generated"
    output, errors = await output_of(
        *(command, "generate", "--path", folder / "openapi.json", "--config", folder / "generator.json"),
        *("--meta", "none", "--output-path", package, "--fail-on-warning"),
        cwd=folder,
    )
    assert "warning" not in (output + errors).lower(), output + errors
    return package


PYTHON = """
client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2], raise_on_unexpected_status=True)
health = get_health.sync(client=client)
assert isinstance(health, Health), health
models = list_models.sync(client=client)
assert isinstance(models, Models), models
model = get_model.sync(models.data[0].id, client=client)
assert model == models.data[0], model

with open(sys.argv[3], "rb") as audio:
    form = Form(file=File(payload=audio, file_name="hello.wav"), stored_output=True)
    accepted = transcribe.sync(client=client, body=form)
assert isinstance(accepted, Accepted), accepted
events = follow_job.sync(accepted.job_id, client=client)  # until it has ended
assert isinstance(events, str), events
job = get_job.sync(accepted.job_id, client=client, include_result=True)
assert isinstance(job, Job), job
assert not isinstance(job.result, Unset)
jobs = list_jobs.sync(client=client)
assert isinstance(jobs, Jobs), jobs
missing = get_job.sync("3fa85f64-5717-4562-b3fc-2c963f66afa6", client=client)
assert isinstance(missing, Failure), missing
not_followed = follow_job.sync("3fa85f64-5717-4562-b3fc-2c963f66afa6", client=client)
assert isinstance(not_followed, Failure), not_followed

with open(sys.argv[3], "rb") as audio:
    transcript = transcribe.sync(client=client, body=Form(file=File(payload=audio, file_name="hello.wav")))
assert isinstance(transcript, Transcript), transcript
with open(sys.argv[3], "rb") as audio:
    form = Form.from_dict({"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]})
    form.file = File(payload=audio, file_name="hello.wav")
    verbose = transcribe.sync(client=client, body=form)
assert isinstance(verbose, VerboseTranscript), verbose
assert not isinstance(verbose.words, Unset)

result = {
    "health": health.status.value,
    "slots": health.concurrency.available_slots,
    "models": [one.id for one in models.data],
    "total": jobs.total_jobs,
    "listed": jobs.jobs[job.job_id].status.value,
    "status": job.status.value,
    "percent": job.progress_percent,
    "starts": [segment.start for segment in job.result.segments],
    "text": job.result.text,
    "synchronous_text": transcript.text,
    "seconds": transcript.usage.seconds,
    "verbose": [verbose.language, *(word.word for word in verbose.words)],
    "missing": missing.error.code,
    "not_followed": not_followed.error.code,
}
print(json.dumps(result))
"""


@pytest.fixture
def program(package: Path, description: Description, folder: Path) -> Path:
    """A program that uses the generated package."""

    def module(method: str, path: str) -> str:
        lines = (f'"method": "{method}"', f'"url": "{description.path(path)}"')
        (file,) = (file for file in (package / "api").rglob("*.py") if all(one in file.read_text() for one in lines))
        return ".".join(file.relative_to(folder).with_suffix("").parts)

    modules = {
        "get_health": ("get", "/health"),
        "list_models": ("get", "/v1/models"),
        "get_model": ("get", "/v1/models/{}"),
        "transcribe": ("post", "/v1/audio/transcriptions"),
        "list_jobs": ("get", "/v1/jobs"),
        "get_job": ("get", "/v1/jobs/{}"),
        "follow_job": ("get", "/v1/jobs/{}/events"),
    }
    classes = {
        "Health": description.response("get", "/health"),
        "Models": description.response("get", "/v1/models"),
        "Form": description.form("/v1/audio/transcriptions"),
        "Accepted": description.response("post", "/v1/audio/transcriptions", having="status_url"),
        "Transcript": _plain_transcript(description),
        "VerboseTranscript": description.response("post", "/v1/audio/transcriptions", having="language"),
        "Jobs": description.response("get", "/v1/jobs"),
        "Job": description.response("get", "/v1/jobs/{}"),
        "Failure": description.response("get", "/v1/jobs/{}", 404),
    }
    imports = [
        "import json, sys",
        "from generated import AuthenticatedClient",
        "from generated.types import File, Unset",
        *(f"import {module(*operation)} as {name}" for name, operation in modules.items()),
        *(f"from generated.models import {theirs} as {ours}" for ours, theirs in classes.items()),
    ]
    file = folder / "program.py"
    file.write_text("\n".join(imports) + PYTHON)
    return file


def _plain_transcript(description: Description) -> str:
    """Return the name of the schema of ``response_format=json``: the one with a text and the fewest required fields."""
    names = [name for name in description.responses("post", "/v1/audio/transcriptions") if _required(description, name)]
    return min(names, key=lambda name: len(_required(description, name)))


def _required(description: Description, name: str) -> list[str]:
    required: list[str] = description.schema(name)["required"]
    return required if "text" in required else []


async def test_generated_python_client_compiles(package: Path, folder: Path) -> None:
    await output_of(sys.executable, "-m", "compileall", "-q", package, cwd=folder)


async def test_generated_python_client_passes_mypy(program: Path, package: Path, folder: Path) -> None:
    await output_of(sys.executable, "-m", "mypy", "--config-file=", package, program, cwd=folder)


async def test_generated_python_client_works_with_the_service(
    program: Path, running: Running, key: str, samples: Path, folder: Path
) -> None:
    output, _ = await output_of(sys.executable, program, running.address, key, samples / "hello.wav", cwd=folder)
    results = json.loads(output)
    first, second = results.pop("starts")
    assert 0 <= first < 2 < second < 5
    assert results == {
        "health": "healthy",
        "slots": 3,
        "models": ["demo", *MODEL_ALIASES],
        "total": 1,
        "listed": "completed",
        "status": "completed",
        "percent": 100,
        "text": HELLO,
        "synchronous_text": HELLO,
        "seconds": 6,
        "verbose": ["english", *HELLO.split()],
        "missing": "job_not_found",
        "not_followed": "job_not_found",
    }


TYPESCRIPT = """
type Job = paths[JobPath]["get"]["responses"][200]["content"]["application/json"];
type Failure = paths[JobPath]["get"]["responses"][404]["content"]["application/json"];
type Form = NonNullable<paths[TranscriptionPath]["post"]["requestBody"]>["content"]["multipart/form-data"];
type Upload = Omit<Form, "file"> & { file: Blob };
type Status = "queued" | "processing" | "completed" | "failed" | "cancelled";

async function answered<Answer>(response: Response): Promise<Answer> {
  if (response.ok) return (await response.json()) as Answer;
  const failure = (await response.json()) as Failure;
  const code: string | null = failure.error.code;
  throw new Error(`${code}: ${failure.error.message}`);
}

function multipart(upload: Upload): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(upload)) {
    for (const one of [value].flat()) form.append(name, one instanceof Blob ? one : String(one));
  }
  return form;
}

export async function submit(address: string, file: Blob): Promise<string> {
  const body = multipart({ file, response_format: "srt", "timestamp_granularities[]": ["word"], stored_output: true });
  const response = await fetch(`${address}/v1/audio/transcriptions`, { method: "POST", body });
  return (await answered<{ job_id: string }>(response)).job_id;
}

export async function read(address: string, id: string): Promise<string> {
  const job = await answered<Job>(await fetch(`${address}/v1/jobs/${id}?include_result=true`));
  const status: Status = job.status;
  const percent: number = job.progress_percent;
  const place: number | undefined = job.queue_position;
  const starts: number[] = job.result?.segments?.map((segment) => segment.start) ?? [];
  return `${status} ${percent.toFixed()} ${place} ${starts} ${job.result?.text}`;
}

// The compiler must reject these.
declare const job: Job;
// @ts-expect-error  no such field
job.state;
// @ts-expect-error  no such status
export const ended: boolean = job.status === "done";
// @ts-expect-error  it need not be there
export const error: string = job.error;
// @ts-expect-error  no such format
export const form: Upload = { file: new Blob(), response_format: "docx" };
"""


async def test_generated_typescript_types_pass_tsc(node_packages: Path, description: Description, folder: Path) -> None:
    generator = node_packages / "openapi-typescript" / "bin" / "cli.js"
    # A field with a default may be left out of a form.
    options = ("--default-non-nullable", "false")
    output, errors = await output_of(
        "node", generator, folder / "openapi.json", *options, "--output", folder / "schema.ts", cwd=folder
    )
    assert not errors, output + errors
    header = [
        'import type { paths } from "./schema";',
        f"type JobPath = {json.dumps(description.path('/v1/jobs/{}'))};",
        f"type TranscriptionPath = {json.dumps(description.path('/v1/audio/transcriptions'))};",
    ]
    (folder / "program.ts").write_text("\n".join(header) + TYPESCRIPT)
    await output_of(
        *("node", node_packages / "typescript" / "bin" / "tsc", "--noEmit", "--strict", "--target", "es2022"),
        *("--lib", "es2022,dom,dom.iterable", "--module", "esnext", "--moduleResolution", "bundler"),
        folder / "program.ts",
        cwd=folder,
    )
