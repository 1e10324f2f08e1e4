"""The Dockerfile and compose.yaml."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from tests.deploy.deployment import (
    COMPOSE,
    DOCKERFILE,
    DOCKERIGNORE,
    ROOT,
    documents,
    grace_seconds,
    judged,
    seconds,
    tool,
)
from tests.support.program import free_port

if TYPE_CHECKING:
    from pathlib import Path

#: What a command says where it goes on in the next line.
_CONTINUED: Final = re.compile(r"\\\n\s*")


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments."""
    text = _CONTINUED.sub("", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, arguments) for name, _, arguments in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml by their names."""
    (composed,) = documents(COMPOSE)
    found: dict[str, Any] = composed["services"]
    return found


def test_the_dockerfile_is_well_formed() -> None:
    judged(tool("hadolint"), "--failure-threshold", "style", DOCKERFILE)


def test_the_last_target_is_for_a_cpu_and_there_is_one_for_cuda(instructions: list[tuple[str, str]]) -> None:
    stages = [arguments.rpartition(" AS ")[2] for name, arguments in instructions if name == "FROM"]
    assert stages[-1] == "cpu"
    assert "cuda" in stages


def test_packages_are_installed_by_their_hashes_only(instructions: list[tuple[str, str]]) -> None:
    installations = [arguments for name, arguments in instructions if name == "RUN" and "pip install" in arguments]
    assert len(installations) == 2
    assert all("--require-hashes" in command for command in installations)


def test_what_the_dockerfile_copies_goes_into_the_build(instructions: list[tuple[str, str]]) -> None:
    copied = {
        arguments.split()[0]
        for name, arguments in instructions
        if name == "COPY" and not arguments.startswith("--from")
    }
    admitted = {line[1:] for line in DOCKERIGNORE.read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert copied == admitted
    assert {path for path in copied if not (ROOT / path).exists()} == set()


def test_the_service_in_an_image_is_nobody_and_gets_the_signal_itself(instructions: list[tuple[str, str]]) -> None:
    last = dict(instructions)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last["USER"])
    assert last["ENTRYPOINT"] == '["python", "-m", "app"]'
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_the_compose_file_is_of_its_specification() -> None:
    judged(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_compose_file_needs_keys(services: dict[str, Any]) -> None:
    for name in ("transcription", "cuda"):
        assert services[name]["environment"]["API_KEYS"].startswith("${API_KEYS:?")


def test_the_compose_file_gives_nothing_away(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert "privileged" not in service, name


def test_the_compose_file_stops_no_sooner_than_the_service_does(services: dict[str, Any]) -> None:
    for name in ("transcription", "cuda"):
        assert seconds(services[name]["stop_grace_period"]) > grace_seconds()


def test_the_compose_file_builds_the_targets_of_the_dockerfile(
    services: dict[str, Any], instructions: list[tuple[str, str]]
) -> None:
    stages = {arguments.rpartition(" AS ")[2] for name, arguments in instructions if name == "FROM"}
    built = {name: service["build"]["target"] for name, service in services.items() if "build" in service}
    assert built == {"transcription": "cpu", "cuda": "cuda"}
    assert set(built.values()) <= stages


def test_only_the_service_on_the_cpu_starts_by_itself(services: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert profiles == {"transcription": [], "cuda": ["cuda"], "s3": ["s3"]}


def test_the_s3_of_the_compose_file_is_one_that_the_service_may_reach(services: dict[str, Any]) -> None:
    allowed = services["transcription"]["environment"]["URL_ALLOWED_HOSTS"]
    assert allowed == "${URL_ALLOWED_HOSTS-}"
    assert "--addr=:9000" in services["s3"]["command"]


def test_the_s3_of_the_compose_file_keeps_what_is_put_with_its_keys(services: dict[str, Any], tmp_path: Path) -> None:
    """Its arguments, for the rclone that is installed here, with a folder of ours."""
    (tmp_path / "transcripts").mkdir()
    port = free_port()
    places = {":9000": f"127.0.0.1:{port}", "/data": str(tmp_path)}
    command = [_replaced(argument, places) for argument in services["s3"]["command"]]
    (keys,) = (argument.partition("=")[2] for argument in command if argument.startswith("--auth-key"))
    access_key, secret_key = keys.split(",")
    quiet = subprocess.DEVNULL
    with subprocess.Popen([tool("rclone"), *command], stdin=quiet, stdout=quiet, stderr=quiet) as served:
        try:
            client = boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                region_name="us-east-1",
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
                config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
            )
            _until_it_answers(client, served)
            client.put_object(Bucket="transcripts", Key="hello.json", Body=b"{}")
            assert client.get_object(Bucket="transcripts", Key="hello.json")["Body"].read() == b"{}"
        finally:
            served.kill()


def _replaced(argument: str, places: dict[str, str]) -> str:
    for there, here in places.items():
        argument = argument.removesuffix(there) + here if argument.endswith(there) else argument
    return argument


def _until_it_answers(client: Any, served: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert served.poll() is None, "rclone has ended"
        assert time.monotonic() < deadline, "rclone does not answer"
        try:
            assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["transcripts"]
        except BotoCoreError:
            time.sleep(0.05)
        else:
            return
