"""Files that start server, Prometheus and Grafana: they fit together, and the dashboard asks for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import Headers

from cascade import serve
from cascade.serving.errors import ApiError
from cascade.serving.origins import Origins
from cascade.serving.shadow import Journal
from tests.serving.running import Plain, plain_cascade, running

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "monitoring"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
DASHBOARD = json.loads((FOLDER / "grafana" / "cascade.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, set[str]]:
    """Every series that a server shows, by name, and the labels that were seen on it."""
    models = Plain("first", p_t=0.2), Plain("last", p_t=0.95)
    with running(plain_cascade(*models), journal=Journal(tmp_path_factory.mktemp("journal"), False)) as server:
        for i in range(3):
            server.ask(f"Who {i}?")
        page = httpx.get(f"{server.url}/metrics").text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for end in ends:
            found.setdefault(family.name + end, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_the_dashboard_asks_only_for_metrics_that_the_server_has(published):
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"\bcascade_\w+", expression)}
    assert len(asked) > 20 and asked <= published.keys()


def test_the_dashboard_groups_only_by_labels_that_the_metrics_have(published):
    looked_at = 0
    for expression in EXPRESSIONS:
        (name, *_) = re.findall(r"\bcascade_\w+", expression)
        if not (labels := published[name]):
            continue  # nothing has happened that would be counted there
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            looked_at += 1
            assert {label.strip() for label in group.split(",")} <= labels, expression
    assert looked_at > 10


def test_every_panel_says_what_it_shows_and_what_it_is_drawn_from():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]
    for panel in DASHBOARD["panels"]:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert all(target["legendFormat"] for target in panel["targets"])
    host, port = source["url"].removeprefix("http://").split(":")
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_the_server_is_started_by_flags_that_it_has_and_answers_to_the_name_it_is_scraped_by():
    *python, module, _, _, _ = command = SERVICES["cascade"]["command"]
    assert (python, module) == ([".venv/bin/python", "-m"], "cascade.serve")
    values = serve.build_parser().parse_args(command[3:])
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    ((target,),) = [config["targets"] for config in job["static_configs"]]
    assert target == f"cascade:{values.port}" and job["metrics_path"] == "/metrics"
    origins = Origins(values.host, [values.allowed_hosts])
    origins.check_host(Headers({"host": target}))
    origins.check_host(Headers({"host": f"127.0.0.1:{values.port}"}))
    with pytest.raises(ApiError):
        origins.check_host(Headers({"host": "evil.example"}))
    assert SERVICES["cascade"]["ports"] == [f"127.0.0.1:{values.port}:{values.port}"]
    assert f":{values.port}/readyz" in SERVICES["cascade"]["healthcheck"]["test"][-1]


def test_every_file_and_service_that_is_named_is_there():
    for name, service in SERVICES.items():
        assert ("build" in service) != ("image" in service)
        assert ":latest" not in service.get("image", "") and ":" in service.get("image", ":")
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name  # this machine alone
        assert set(service.get("depends_on", [])) <= SERVICES.keys()
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (FOLDER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    mounts = [volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"]]
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert ["./grafana/cascade.json", f"{provider['options']['path']}/cascade.json"] in mounts


def test_every_yaml_file_says_what_it_is_for():
    for path in FOLDER.rglob("*.yaml"):
        assert "docker compose --file configs/monitoring/compose.yaml up" in path.read_text().splitlines()[0]


def test_the_image_is_made_as_the_tests_environment_is():
    build = SERVICES["cascade"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    (target,) = re.findall(r"RUN make (\S+)", build["dockerfile_inline"])
    assert f"$(VENV)/{Path(target).name}:" in (ROOT / "Makefile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs"} <= set(ignored)
