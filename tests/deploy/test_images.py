"""The Dockerfile, compose.yaml and compose.cluster.yaml."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from tests.deploy.deployment import (
    CLUSTER_COMPOSE,
    COMPOSE,
    DOCKERFILE,
    DOCKERIGNORE,
    ROOT,
    documents,
    grace_seconds,
    output_of,
    seconds,
    tool,
)
from tests.support.program import free_port
from tests.support.waiting import LIMIT_SECONDS, wait_until

if TYPE_CHECKING:
    from pathlib import Path

#: The end of a line that continues in the next one.
_CONTINUED: Final = re.compile(r"\\\n\s*")


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments."""
    text = _CONTINUED.sub("", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, arguments) for name, _, arguments in (line.partition(" ") for line in lines)]


def services_of(path: Path) -> dict[str, Any]:
    """Return the services of a compose file by their names."""
    (composed,) = documents(path)
    found: dict[str, Any] = composed["services"]
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml by their names."""
    return services_of(COMPOSE)


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The services of compose.cluster.yaml by their names."""
    return services_of(CLUSTER_COMPOSE)


def test_dockerfile_passes_hadolint() -> None:
    output_of(tool("hadolint"), "--failure-threshold", "style", DOCKERFILE)


def test_dockerfile_builds_for_cpu_by_default_and_for_cuda(instructions: list[tuple[str, str]]) -> None:
    stages = [arguments.rpartition(" AS ")[2] for name, arguments in instructions if name == "FROM"]
    assert stages[-1] == "cpu"
    assert "cuda" in stages


def test_packages_are_installed_with_their_hashes(instructions: list[tuple[str, str]]) -> None:
    installations = [arguments for name, arguments in instructions if name == "RUN" and "pip install" in arguments]
    assert len(installations) == 2
    assert all("--require-hashes" in command for command in installations)


def test_copied_files_exist_and_are_not_ignored(instructions: list[tuple[str, str]]) -> None:
    copied = {
        arguments.split()[0]
        for name, arguments in instructions
        if name == "COPY" and not arguments.startswith("--from")
    }
    not_ignored = {line[1:] for line in DOCKERIGNORE.read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert copied == not_ignored
    assert {path for path in copied if not (ROOT / path).exists()} == set()


def test_image_runs_unprivileged_and_receives_signals(instructions: list[tuple[str, str]]) -> None:
    last = dict(instructions)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last["USER"])
    assert last["ENTRYPOINT"] == '["python", "-m", "app"]'
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_compose_files_follow_their_schema() -> None:
    output_of(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE, CLUSTER_COMPOSE)


def test_compose_file_requires_api_keys(services: dict[str, Any]) -> None:
    for name in ("transcription", "cuda"):
        assert services[name]["environment"]["API_KEYS"].startswith("${API_KEYS:?")


@pytest.mark.parametrize("path", [COMPOSE, CLUSTER_COMPOSE], ids=lambda path: path.name)
def test_compose_services_have_least_privileges(path: Path) -> None:
    for name, service in services_of(path).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "privileged" not in service, name


@pytest.mark.parametrize("path", [COMPOSE, CLUSTER_COMPOSE], ids=lambda path: path.name)
def test_compose_stops_no_sooner_than_the_grace_period(path: Path) -> None:
    for name, service in services_of(path).items():
        if "build" in service:
            assert seconds(service["stop_grace_period"]) > grace_seconds(), name


@pytest.mark.parametrize("path", [COMPOSE, CLUSTER_COMPOSE], ids=lambda path: path.name)
def test_compose_files_build_existing_targets(path: Path, instructions: list[tuple[str, str]]) -> None:
    stages = {arguments.rpartition(" AS ")[2] for name, arguments in instructions if name == "FROM"}
    built = {
        service["image"]: service["build"]["target"] for service in services_of(path).values() if "build" in service
    }
    assert built == {"transcription": "cpu", "transcription:cuda": "cuda"}
    assert set(built.values()) <= stages


def test_only_the_cpu_service_starts_without_a_profile(services: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert profiles == {"transcription": [], "cuda": ["cuda"], "s3": ["s3"]}


def test_secrets_of_a_cluster_have_no_default() -> None:
    text = CLUSTER_COMPOSE.read_text(encoding="utf-8")
    for name in ("API_KEYS", "CLUSTER_SECRET", "POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        uses = re.findall(rf"\$\{{{name}(.)", text)
        assert uses, name
        assert set(uses) == {":"}, name
        assert f"${{{name}:-" not in text, name


def test_commands_in_the_compose_file_create_all_secrets(cluster: dict[str, Any], tmp_path: Path) -> None:
    """Run the commands in the comment before `docker compose`."""
    lines = CLUSTER_COMPOSE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("#   for name in "))
    commands = "\n".join(line.removeprefix("#") for line in lines[start : start + 4])
    subprocess.run([tool("bash"), "-euc", commands], cwd=tmp_path, check=True)
    created = dict(line.split("=", 1) for line in (tmp_path / "cluster.env").read_text().splitlines())
    assert (tmp_path / "cluster.env").stat().st_mode & 0o077 == 0
    assert len(set(created.values())) == len(created)
    required = set(re.findall(r"\$\{([A-Z_]+):\?", str(cluster)))
    assert required == created.keys()


def test_cluster_has_two_nodes_of_each_role(cluster: dict[str, Any]) -> None:
    roles = {name: service.get("environment", {}).get("ROLE") for name, service in cluster.items()}
    assert [name for name, role in roles.items() if role == "api"] == ["api-1", "api-2"]
    assert [name for name, role in roles.items() if role == "worker"] == ["worker", "worker-cuda"]
    assert cluster["worker"]["deploy"]["replicas"] == 2
    assert cluster["worker-cuda"]["profiles"] == ["cuda"]


def test_workers_share_no_scratch_folder(cluster: dict[str, Any]) -> None:
    for name in ("api-1", "api-2", "worker", "worker-cuda"):
        assert not any(volume.partition(":")[2] == "/data" for volume in cluster[name].get("volumes", ())), name


def test_nodes_start_once_the_tables_and_the_store_are_there(cluster: dict[str, Any]) -> None:
    assert cluster["migrate"]["command"] == ["migrate"]
    assert cluster["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api-1", "api-2", "worker", "worker-cuda"):
        assert cluster[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "s3": {"condition": "service_healthy"},
        }, name


def test_only_nodes_reach_the_database_and_the_store(cluster: dict[str, Any]) -> None:
    (composed,) = documents(CLUSTER_COMPOSE)
    assert composed["networks"]["back"] == {"internal": True}
    assert cluster["postgres"]["networks"] == cluster["s3"]["networks"] == ["back"]
    assert cluster["nginx"]["networks"] == ["front"]
    published = {name: service["ports"] for name, service in cluster.items() if "ports" in service}
    assert published == {"nginx": ["127.0.0.1:8000:8080"]}


def test_s3_of_the_compose_file_can_be_allowed(services: dict[str, Any]) -> None:
    allowed = services["transcription"]["environment"]["URL_ALLOWED_HOSTS"]
    assert allowed == "${URL_ALLOWED_HOSTS-}"
    assert "--addr=:9000" in services["s3"]["command"]


def test_s3_of_the_compose_file_stores_objects(services: dict[str, Any], tmp_path: Path) -> None:
    """Run the installed rclone with the arguments of the compose file, in a temporary folder."""
    (tmp_path / "transcripts").mkdir()
    port = free_port()
    replacements = {":9000": f"127.0.0.1:{port}", "/data": str(tmp_path)}
    command = [_replaced(argument, replacements) for argument in services["s3"]["command"]]
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
                config=Config(
                    retries={"total_max_attempts": 1}, connect_timeout=LIMIT_SECONDS, read_timeout=LIMIT_SECONDS
                ),
            )
            wait_until(partial(_is_serving, client, served))
            client.put_object(Bucket="transcripts", Key="hello.json", Body=b"{}")
            assert client.get_object(Bucket="transcripts", Key="hello.json")["Body"].read() == b"{}"
        finally:
            served.kill()


def _replaced(argument: str, replacements: dict[str, str]) -> str:
    for there, here in replacements.items():
        argument = argument.removesuffix(there) + here if argument.endswith(there) else argument
    return argument


def _is_serving(client: Any, served: subprocess.Popen[bytes]) -> bool:
    assert served.poll() is None, "rclone has ended"
    try:
        buckets = client.list_buckets()["Buckets"]
    except BotoCoreError:
        return False
    assert [bucket["Name"] for bucket in buckets] == ["transcripts"]
    return True
