"""Strangers against the real webserver of `dedup-assets ui`, over loopback: pages of other sites, forged run configs,
files that lie in the folder where it was started."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

import dedup_assets as da
from dedup_assets.automation.guarded_webserver import Guard
from dedup_assets.names import Names
from dedup_assets_tests.cli.commands import write_corpus
from dedup_assets_tests.end_to_end.served import LAUNCH_JOB, Served, served_ui

TRAP = """
with open({mark!r}, "a") as file:
    file.write(f"{{__name__}} in {{os.getpid()}}\\n")
"""
QUERY = "{ version }"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacked")


@pytest.fixture(scope="module")
def ui(folder: Path) -> Iterator[Served]:
    """The UI, started in a folder where a stranger left modules and an environment file."""
    da.curate(write_corpus(folder / "shards"), workspace=folder / "ws", embedding_column="v")
    da.curate(folder / "shards", workspace=folder / "other", embedding_column="v")
    here = folder / "here"
    here.mkdir()
    for module in ("socks", "sitecustomize", "usercustomize", "dagster", "yaml", "dedup_assets"):
        (here / f"{module}.py").write_text(TRAP.format(mark=str(folder / "trapped")))
    (here / ".env").write_text(f"DEDUP_ASSETS_WORKSPACE={folder / 'other'}\nPYTHONPATH={here}\n")
    with served_ui(folder / "ws", folder, cwd=here) as ui:
        yield ui


def answer(ui: Served, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    """Status and body of a request with exactly these headers; a "Host" among them takes the place of the own."""
    connection = http.client.HTTPConnection(urlsplit(ui.address).netloc, timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(body.encode())))
        connection.endheaders(body.encode())
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def launch(config: object) -> dict[str, object]:
    selector = {
        "repositoryLocationName": "dedup_assets",
        "repositoryName": "__repository__",
        "jobName": "curate_new_shards",
    }
    tags = [
        {"key": "dagster/asset_partition_range_start", "value": "a"},
        {"key": "dagster/asset_partition_range_end", "value": "b"},
    ]
    return {"selector": selector, "runConfigData": config, "executionMetadata": {"tags": tags}}


RUNS = "{ runsOrError { ... on Runs { results { runId status } } } }"


def runs(ui: Served) -> list[dict[str, str]]:
    return ui.graphql(RUNS)["runsOrError"]["results"]


MUTATION = json.dumps({"query": LAUNCH_JOB, "variables": {"params": launch({})}})
IN_URL = f"/graphql?query={quote(LAUNCH_JOB)}&variables={quote(json.dumps({'params': launch({})}))}"
FOREIGN = {
    "another host": ("POST", "/graphql", MUTATION, {"Host": "evil.example", "Content_Type": "application/json"}),
    "a name like ours": (
        "POST",
        "/graphql",
        MUTATION,
        {"Host": "localhost.evil.example", "Content_Type": "application/json"},
    ),
    "no host": ("POST", "/graphql", MUTATION, {"Host": "", "Content_Type": "application/json"}),
    "another origin": (
        "POST",
        "/graphql",
        MUTATION,
        {"Origin": "http://evil.example", "Content_Type": "application/json"},
    ),
    "a file's origin": ("POST", "/graphql", MUTATION, {"Origin": "null", "Content_Type": "application/json"}),
    "another port's origin": (
        "POST",
        "/graphql",
        MUTATION,
        {"Origin": "http://127.0.0.1:1", "Content_Type": "application/json"},
    ),
    "both foreign": (
        "POST",
        IN_URL,
        "",
        {"Host": "evil.example", "Origin": "http://evil.example", "Content_Type": "text/plain"},
    ),
    "a form": ("POST", IN_URL, "", {"Content_Type": "application/x-www-form-urlencoded"}),
    "plain text": ("POST", IN_URL, MUTATION, {"Content_Type": "text/plain"}),
    "plain text that names JSON": ("POST", IN_URL, MUTATION, {"Content_Type": "text/plain; application/json"}),
    "no type": ("POST", IN_URL, "", {}),
    "an image": ("GET", IN_URL, "", {}),
    "an image of a site": ("GET", IN_URL, "", {"Sec_Fetch_Site": "cross-site", "Accept": "text/html"}),
    "a report of another": (
        "POST",
        "/report_asset_materialization/raw_shards?partition=a",
        "",
        {"Content_Type": "text/plain"},
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_a_foreign_page_sends_is_refused(ui: Served, name: str) -> None:
    method, path, body, headers = FOREIGN[name]
    before = runs(ui)
    status, said = answer(ui, method, path, body, **headers)
    assert status in (400, 403) and "runId" not in said, said
    assert runs(ui) == before


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "localhost:8080", "[::1]:{port}", "LOCALHOST:{port}"]
)
def test_its_own_pages_and_programs_are_served(ui: Served, host: str) -> None:
    host = host.format(port=urlsplit(ui.address).port)
    body = json.dumps({"query": QUERY})
    status, said = answer(
        ui, "POST", "/graphql", body, Host=host, Origin=f"http://{host}", Content_Type="application/json; charset=utf-8"
    )
    assert status == 200 and json.loads(said)["data"]["version"]
    assert answer(ui, "GET", "/assets", Host=host, Accept="text/html", Sec_Fetch_Site="none")[0] == 200
    assert answer(ui, "GET", "/", Host=host, Accept="text/html", Sec_Fetch_Site="cross-site")[0] == 200, "a link to it"


def handshake(ui: Served, **headers: str) -> int:
    """The status of a request for a websocket."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Protocol": "graphql-ws"}
    connection = http.client.HTTPConnection(urlsplit(ui.address).netloc, timeout=60)
    try:
        connection.request(
            "GET", "/graphql", headers={k.replace("_", "-"): v for k, v in (upgrade | key | headers).items()}
        )
        return connection.getresponse().status
    finally:
        connection.close()


def test_subscriptions_are_for_its_own_pages_too(ui: Served) -> None:
    assert handshake(ui, Origin=ui.address) == 101
    assert handshake(ui, Origin="http://evil.example") == 403
    assert handshake(ui, Host="evil.example") == 403


def test_a_run_config_connects_nowhere(ui: Served, folder: Path) -> None:
    knocked: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                try:
                    knocked.append(listening.accept())
                except TimeoutError:
                    continue

        listener = threading.Thread(target=listen)
        listener.start()
        own = str(folder / "ws")

        def options(**named: str) -> dict[str, object]:
            return {Names.of(own).workspace: {"config": {"path": own, "options": json.dumps(named)}}}

        configs: dict[str, dict[str, object]] = {
            "names the Dask scheduler": options(scheduler=address),
            "names a Dask scheduler": {Names.of(own).dask: {"config": {"scheduler": address}}},
        }
        try:
            launched = {}
            for refusal, resources in configs.items():
                said = ui.graphql(LAUNCH_JOB, params=launch({"resources": resources}))["launchRun"]
                assert said["__typename"] == "LaunchRunSuccess", said
                launched[refusal] = said["run"]["runId"]
            for refusal, run in launched.items():
                ui.wait_for(lambda run=run: ui.run_status(run) in ("SUCCESS", "FAILURE"), 120)  # type: ignore[misc]
                assert ui.run_status(run) == "FAILURE", refusal
                events = ui.graphql(
                    "query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { ... on ErrorEvent "
                    "{ error { message causes { message } } } } } } }",
                    id=run,
                )
                assert refusal in json.dumps(events), (refusal, json.dumps(events)[:2000])
        finally:
            ended.set()
            listener.join()
    assert not knocked


def test_nothing_is_read_from_the_folder_where_it_was_started(ui: Served, folder: Path) -> None:
    # After the runs above, which have processes of their own.
    assert ui.graphql(QUERY)["version"]
    assert not (folder / "trapped").exists(), (folder / "trapped").read_text()
    nodes = ui.graphql("{ assetNodes { isMaterializable partitionKeys } }")["assetNodes"]
    assert [node["partitionKeys"] for node in nodes if node["isMaterializable"]] == [["a", "b"]] * 7


@pytest.mark.parametrize("host", ["[", "a:b:c", "evil.example:80", "1.2.3.4.evil.example", "127.1.evil", ""])
def test_odd_hosts_are_strangers(host: str) -> None:
    guard = Guard(None, "127.0.0.1")  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host.encode())]}
    assert "does not answer under the name" in guard.refusal(scope)
    twice = {**scope, "headers": [(b"host", b"localhost"), (b"host", b"evil.example")]}
    assert guard.refusal(twice)
