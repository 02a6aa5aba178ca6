"""The deployment files parse, agree with each other and with the package, and are accepted by Dagster."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus, job, op
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config, dagster_instance_config_schema
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.load import location_origins_from_yaml_paths
from distributed.security import Security
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dedup_assets.resources.gpu_memory import KEPT_SHARE, MOST_SHARE
from dedup_assets.resources.worker_device import GPU_TASKS

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
OURS = {"webserver", "daemon", "dask-scheduler", "dask-worker", "dask-gpu-worker"}
POOL = [
    f"--nthreads={GPU_TASKS}",
    "--rmm-async",
    f"--rmm-release-threshold={KEPT_SHARE}",
    f"--rmm-maximum-pool-size={MOST_SHARE}",
    "--set-rmm-allocator-for-libs=torch,cupy",
]
"""Of GPU workers that are started by hand."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def compose() -> dict[str, Any]:
    return load(DEPLOY / "compose.yaml")


@pytest.fixture
def values() -> dict[str, Any]:
    return load(DEPLOY / "values.yaml")


@pytest.fixture
def container_environment(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables that the containers have, as far as dagster.yaml reads them."""
    for name, value in compose["services"]["daemon"]["environment"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_COMPUTE_LOGS", str(tmp_path / "logs"))


def allowed(name: str, version: str) -> bool:
    """Whether the package takes this version of a dependency."""
    (requirement,) = (each for each in map(Requirement, PROJECT["dependencies"]) if each.name == name)
    return requirement.specifier.contains(version)


@pytest.mark.parametrize("folder", [ROOT, DEPLOY], ids=["laptop", "containers"])
def test_dagster_accepts_the_instance_settings(folder: Path, container_environment: None) -> None:
    config, instance_class = dagster_instance_config(str(folder))
    assert instance_class is None
    assert config["telemetry"] == {"enabled": False}
    assert config["nux"] == {"enabled": False}
    monitoring = config["run_monitoring"]
    assert monitoring["enabled"] is True
    assert monitoring["max_runtime_seconds"] > 0
    assert monitoring["free_slots_after_run_end_seconds"] > 0
    # The schema leaves the settings of a class to the class: build it.
    coordinator = InstanceRef.from_dir(str(folder)).run_coordinator
    assert isinstance(coordinator, QueuedRunCoordinator)


def test_the_laptop_instance_runs_and_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.telemetry_enabled is False
        assert instance.nux_enabled is False
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 1
        assert instance.run_monitoring_max_runtime_seconds == 86400


def test_the_container_instance_stores_in_postgres(container_environment: None, compose: dict) -> None:
    config, _ = dagster_instance_config(str(DEPLOY))
    (kind,) = config["storage"]
    assert kind == "postgres"
    named = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text(encoding="utf-8")))
    image = set(re.findall(r"(DAGSTER_\w+|DEDUP_ASSETS_\w+)=", DOCKERFILE))
    for service in OURS:
        assert named <= image | set(compose["services"][service]["environment"])
    postgres = compose["services"]["postgres"]["environment"]
    ours = compose["services"]["daemon"]["environment"]
    assert ours["DAGSTER_POSTGRES_HOST"] in compose["services"]
    assert ours["DAGSTER_POSTGRES_USER"] == postgres["POSTGRES_USER"]
    assert ours["DAGSTER_POSTGRES_DB"] == postgres["POSTGRES_DB"]
    assert ours["DAGSTER_POSTGRES_PASSWORD"] == postgres["POSTGRES_PASSWORD"]


def test_the_workspace_names_the_code_location() -> None:
    (origin,) = location_origins_from_yaml_paths([str(ROOT / "workspace.yaml")])
    assert origin.location_name == "dedup_assets"
    assert origin.loadable_target_origin.module_name == "dedup_assets.location"


def test_compose_publishes_on_the_loopback_address_only(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert list(published) == ["webserver"]
    for port in published["webserver"]:
        assert isinstance(port, str)
        assert port.startswith("127.0.0.1:")
    for service in compose["services"].values():
        assert service.get("network_mode") != "host"
        assert "privileged" not in service


def test_compose_services_share_the_workspace_and_answer_for_their_health(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == OURS | {"postgres"}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source.startswith("$") or source in compose["volumes"]
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[other]
    for name in OURS:
        environment = services[name]["environment"]
        assert environment["DEDUP_ASSETS_WORKSPACE"] == "/workspace"
        assert environment["DEDUP_ASSETS_SCHEDULER"] == "tls://dask-scheduler:8786"
        assert "workspace:/workspace" in services[name]["volumes"]
    assert "8786" in services["dask-scheduler"]["command"]
    assert "tls://dask-scheduler:8786" in services["dask-worker"]["command"]


def test_compose_reads_its_secrets_from_the_environment(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    example = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    declared = dict(re.findall(r"^(\w+)=(.*)$", example, flags=re.MULTILINE))
    assert {name for name in re.findall(r"\$\{(\w+)", text)} == set(declared)
    assert declared["POSTGRES_PASSWORD"] == ""
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name:
                assert value.startswith("${POSTGRES_PASSWORD:?")
    assert ".env" in (DEPLOY / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_image_has_the_versions_of_the_package(compose: dict[str, Any], values: dict[str, Any]) -> None:
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)-slim", DOCKERFILE, flags=re.MULTILINE)
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    builds = re.findall(r"torch==(\d+\.\d+\.\d+)", DOCKERFILE)
    assert len(set(builds)) == 1
    assert allowed("torch", builds[0])
    parts = dict(re.findall(r"(dagster[\w-]*)==([\d.]+)", DOCKERFILE))
    dagster = parts["dagster"]
    assert allowed("dagster", dagster) and allowed("dagster-webserver", dagster)
    # Dagster 1.N.P releases its integrations as 0.(N+16).P.
    _, minor, patch = dagster.split(".")
    integrations = {f"dagster-{name}": f"0.{int(minor) + 16}.{patch}" for name in ("postgres", "k8s")}
    assert parts == {"dagster": dagster, "dagster-webserver": dagster, **integrations}
    for text in (DEPLOY / "README.md", DEPLOY / "values.yaml"):
        assert dagster in text.read_text(encoding="utf-8")
    for extra in {name for line in re.findall(r"EXTRAS=(\S+)", DOCKERFILE) for name in line.split(",")}:
        assert extra in PROJECT["optional-dependencies"]
    image = f"dedup-assets:{PROJECT['version']}"
    assert {compose["services"][name]["image"] for name in OURS} == {f"${{IMAGE:-{image}}}"}
    assert f"\nIMAGE={image}\n" in (DEPLOY / ".env.example").read_text(encoding="utf-8")
    deployed = values["dagster-user-deployments"]["deployments"][0]["image"]
    assert f"{deployed['repository']}:{deployed['tag']}" == image


def test_the_image_copies_what_exists_and_runs_as_nobody_special() -> None:
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for sources in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, flags=re.MULTILINE):
        for source in sources.split():
            assert f"!{source}" in allowed
            assert source == "README.md" or (ROOT / source).exists()
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, flags=re.MULTILINE) == ["dedup"]
    assert DOCKERFILE.index("\nUSER dedup") > DOCKERFILE.rindex("\nRUN ")


def test_the_chart_values_agree_with_the_other_files(values: dict[str, Any], compose: dict[str, Any]) -> None:
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["dagsterApiGrpcArgs"] == ["--module-name", "dedup_assets.location"]
    environment = {entry["name"]: entry["value"] for entry in deployment["env"]}
    for name, value in environment.items():
        assert compose["services"]["daemon"]["environment"][name] == value
    (volume, keys), (mount, keys_mount) = deployment["volumes"], deployment["volumeMounts"]
    assert mount == {"name": volume["name"], "mountPath": environment["DEDUP_ASSETS_WORKSPACE"]}
    assert keys_mount == {"name": keys["name"], "mountPath": "/tls", "readOnly": True}
    assert keys["secret"]["secretName"] in (DEPLOY / "README.md").read_text(encoding="utf-8")
    assert f"--uid {deployment['podSecurityContext']['runAsUser']} " in DOCKERFILE
    assert values["telemetry"] == {"enabled": False}
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert "password" not in {key.lower() for key in values["postgresql"]}

    # What the chart renders into dagster.yaml, in Dagster's own schema and with the same numbers.
    def snake(name: str) -> str:
        return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)

    daemon = values["dagsterDaemon"]
    monitoring = {snake(key): value for key, value in daemon["runMonitoring"].items()}
    rendered = {"run_monitoring": monitoring, **values["additionalInstanceConfig"]}
    assert validate_config(dagster_instance_config_schema(), rendered).success
    containers = load(DEPLOY / "dagster.yaml")
    assert monitoring == containers["run_monitoring"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert queue == {"maxConcurrentRuns": containers["concurrency"]["runs"]["max_concurrent_runs"]}


# -- GPU workers -------------------------------------------------------------------------------------


def chart() -> dict[str, Any]:
    """What Helm makes of deploy/dask by itself, by kind and name; its templates only insert values."""
    given = load(DEPLOY / "dask" / "values.yaml")

    def value(found: re.Match[str]) -> str:
        at: Any = given
        for name in found[1].split("."):
            at = at[name]
        return str(at)

    made = {}
    for template in sorted((DEPLOY / "dask" / "templates").iterdir()):
        text = re.sub(r"\{\{ \.Values\.([\w.]+) \}\}", value, template.read_text(encoding="utf-8"))
        assert "{{" not in text
        for document in yaml.safe_load_all(text):
            made[f"{document['kind']} {document['metadata']['name']}"] = document
    return made


def test_gpu_workers_of_compose_are_a_profile_and_have_all_gpus(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "profiles" in service] == ["dask-gpu-worker"]
    worker = services["dask-gpu-worker"]
    assert worker["profiles"] == ["gpu"]
    assert worker["command"][:4] == ["dask", "cuda", "worker", "tls://dask-scheduler:8786"]
    assert worker["command"][4 : 4 + len(POOL)] == POOL
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    readme, example = ((DEPLOY / name).read_text(encoding="utf-8") for name in ("README.md", ".env.example"))
    flavours = re.findall(r"^FROM base AS torch-(\w+)$", DOCKERFILE, flags=re.MULTILINE)
    assert set(flavours) == {"cpu", "gpu"} and worker["build"]["args"]["FLAVOUR"] == "${FLAVOUR:-cpu}"
    for line in (
        f"IMAGE=dedup-assets:{PROJECT['version']}-gpu",
        "FLAVOUR=gpu",
        "DASK_WORKERS=0",
        "COMPOSE_PROFILES=gpu",
    ):
        assert line in readme and line in example


def test_the_chart_of_dask_agrees_with_compose_and_has_gpu_workers_off_by_default(
    compose: dict[str, Any], values: dict[str, Any]
) -> None:
    made = chart()
    workers = ("dask-scheduler", "dask-worker", "dask-gpu-worker")
    assert set(made) == {"Service dask-scheduler"} | {f"Deployment {name}" for name in workers}
    (ours,) = values["dagster-user-deployments"]["deployments"]
    for name in workers:
        deployment = made[f"Deployment {name}"]["spec"]
        pod = deployment["template"]["spec"]
        (container,) = pod["containers"]
        here = {flag for flag in compose["services"][name]["command"] if "dashboard" not in flag and flag != ":8787"}
        assert set(container["command"]) == here | {"--no-dashboard"}
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        for key, value in environment.items():
            assert compose["services"]["dask-worker"]["environment"][key] == value
        assert pod["securityContext"] == ours["podSecurityContext"]
        assert pod["volumes"][:2] == ours["volumes"] and container["volumeMounts"][:2] == ours["volumeMounts"]
        assert container["image"] == f"{ours['image']['repository']}:{ours['image']['tag']}"
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"] == labels == {"app": name}
        limits = container["resources"]["limits"]
        assert limits.get("nvidia.com/gpu", 0) == (name == "dask-gpu-worker") and limits["memory"]
    service = made["Service dask-scheduler"]["spec"]
    assert service["selector"] == {"app": "dask-scheduler"} and service["ports"] == [{"port": 8786, "targetPort": 8786}]
    assert made["Deployment dask-gpu-worker"]["spec"]["replicas"] == 0
    assert made["Deployment dask-worker"]["spec"]["replicas"] > 0
    described = load(DEPLOY / "dask" / "Chart.yaml")
    assert described["version"] == described["appVersion"] == PROJECT["version"]
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for setting in re.findall(r"--set ([\w.]+)=", readme):
        section, name = setting.split(".")
        assert name in load(DEPLOY / "dask" / "values.yaml")[section]


def test_the_flags_of_gpu_workers_are_written_the_same_everywhere() -> None:
    wanted = "dask cuda worker ADDRESS " + " ".join(POOL).replace("=", " ")
    for file in ("dedup_assets/resources/gpu_memory.py", "dedup_assets_tests/benchmarks/GPU.md"):
        assert wanted in " ".join((ROOT / file).read_text(encoding="utf-8").split())


def test_dask_cuda_knows_the_flags() -> None:
    cli = pytest.importorskip("dask_cuda.cli", reason="dask-cuda is not installed: pip install '.[gpu]'")
    command = chart()["Deployment dask-gpu-worker"]["spec"]["template"]["spec"]["containers"][0]["command"]
    context = cli.worker.make_context("worker", command[3:])  # an unknown flag would become an argument of preloads
    assert context.params["scheduler"] == "tls://dask-scheduler:8786" and not context.params["preload_argv"]
    assert context.params["nthreads"] == GPU_TASKS and context.params["rmm_async"] is True
    assert context.params["rmm_allocator_external_lib_list"] == ["torch", "cupy"]


def test_dask_processes_of_the_deployment_know_each_other_by_a_key(compose: dict[str, Any], tmp_path: Path) -> None:
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^```bash\n(mkdir -m 700 deploy/tls\n.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    assert "tls/" in (DEPLOY / ".gitignore").read_text(encoding="utf-8").splitlines()
    (tmp_path / "deploy").mkdir()
    script = "\n".join(line for line in commands.splitlines() if not line.startswith("sudo "))
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True, capture_output=True)
    assert "tls" in compose["services"]["dask-scheduler"]["command"]
    made = f"{tmp_path}/deploy/tls/"
    for service in OURS:
        environment = compose["services"][service]["environment"]
        assert any(volume.endswith(":/tls:ro") for volume in compose["services"][service]["volumes"])
        settings = {
            name.removeprefix("DASK_").lower().replace("__", "."): yaml.safe_load(value.replace("/tls/", made))
            for name, value in environment.items()
            if name.startswith("DASK_DISTRIBUTED__")
        }
        with dask.config.set(settings):
            security = Security()
            assert security.require_encryption is True
            for role in ("scheduler", "worker", "client"):
                assert security.get_connection_args(role)["ssl_context"] is not None
                assert security.get_listen_args(role)["ssl_context"] is not None


@op(pool="decisions")
def _decide() -> None: ...


@job
def _job_with_a_pool() -> None:
    _decide()


def test_a_slot_is_released_by_the_documented_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    show, release = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with DagsterInstance.get() as instance:
        run = instance.create_run_for_job(_job_with_a_pool, status=DagsterRunStatus.STARTED)
        instance.event_log_storage.set_concurrency_slots("decisions", 1)
        instance.event_log_storage.claim_concurrency_slot("decisions", run.run_id, "_decide")
        monkeypatch.setenv("RUN_ID", run.run_id)
        exec(show, {})
        assert capsys.readouterr().out == f"decisions {run.run_id} _decide\n"
        exec(release, {})
        assert not instance.event_log_storage.get_concurrency_info("decisions").claimed_slots
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.status == DagsterRunStatus.CANCELED
        exec(show, {})
        assert capsys.readouterr().out == ""
