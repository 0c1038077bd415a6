"""What ships for operators: valid Kubernetes, alert rules and panels that ask for metrics that exist."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

import resilience
from resilience.settings import Settings
from resilience.telemetry.metrics import Metrics

FILES = Path(resilience.__file__).parent / "ops" / "files"
README = Path(resilience.__file__).parent.parent / "README.md"
METRIC = re.compile(r"\b(?:ai|resilience)_[a-z_]+\b(?!\s*\()")


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def kubernetes_texts() -> dict[str, str]:
    found = {file.name: file.read_text() for file in FILES.glob("*.yaml") if "apiVersion" in file.read_text()}
    blocks = re.findall(r"^```ya?ml\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    found.update({f"README {number}": text for number, text in enumerate(blocks) if "apiVersion" in text})
    return found


@pytest.mark.parametrize("name", kubernetes_texts())
def test_kubernetes_takes_it(name: str) -> None:
    for document in documents(kubernetes_texts()[name]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the validator's own libraries
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_deployment_keeps_what_was_promised() -> None:
    parts = {one["kind"]: one for one in documents((FILES / "kubernetes.yaml").read_text())}
    spec = parts["Deployment"]["spec"]
    assert spec["replicas"] == 3
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "resilience-keys"}}]
    assert set(container["resources"]) == {"requests", "limits"}
    assert all(set(one) == {"cpu", "memory"} for one in container["resources"].values())
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": 8000}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8000}
    drain = float(container["args"][container["args"].index("--drain-seconds") + 1])
    notice = float(container["args"][container["args"].index("--notice-seconds") + 1])
    assert pod["terminationGracePeriodSeconds"] > drain + notice
    assert notice >= container["readinessProbe"]["periodSeconds"], "somebody sees it"
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert parts["Service"]["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()


def test_its_settings_are_settings_and_its_arguments_are_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    from resilience.ops.cli import _parser

    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-x")
    for file in ("kubernetes.yaml", "litellm-proxy.yaml"):
        parts = {one["kind"]: one for one in documents((FILES / file).read_text())}
        settings = Settings.load(yaml.safe_load(parts["ConfigMap"]["data"]["resilience.yaml"]))
        assert len(settings.routes["chat"].targets) == 2
    container = {one["kind"]: one for one in documents((FILES / "kubernetes.yaml").read_text())}["Deployment"]["spec"]
    chosen = _parser().parse_args(container["template"]["spec"]["containers"][0]["args"])
    assert (chosen.command, chosen.host, chosen.port) == ("serve", "0.0.0.0", 8000)


def known_metrics() -> dict[str, set[str]]:
    metrics = Metrics(CollectorRegistry())
    known: dict[str, set[str]] = {}
    for family in vars(metrics).values():
        for one in family.describe() if hasattr(family, "describe") else ():
            labels = set(family._labelnames)
            for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(one.type, [""]):
                known[one.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return known


def expressions() -> list[str]:
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"][0]["rules"]
    panels = json.loads((FILES / "grafana-dashboard.json").read_text())["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_metrics_and_labels_that_exist(expression: str) -> None:
    known = known_metrics()
    asked = set(METRIC.findall(expression))
    assert asked
    assert asked <= known.keys()
    labels = set().union(*(known[name] for name in asked))
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    matched = {one for inside in re.findall(r"\{([^}]*)\}", expression) for one in re.findall(r"(\w+)\s*=", inside)}
    assert grouped | matched <= labels
    assert expression.count("(") == expression.count(")")


def test_every_metric_is_on_the_dashboard() -> None:
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    for name in known_metrics():
        assert any(one.startswith(name.removesuffix("_count").removesuffix("_sum")) for one in asked), name


def test_alerts_say_what_to_do() -> None:
    for rule in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"][0]["rules"]:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_container_runs_as_nobody_special() -> None:
    text = (FILES / "Containerfile").read_text()
    assert re.search(r"^USER \d+$", text, flags=re.MULTILINE)
    assert "resilience.yaml" in text
    extras = re.search(r"litellm-resilience\[([\w,]+)\]", text)[1].split(",")
    assert {"ops", "redis"} == set(extras)  # `storage: redis://...` works without another image
    assert extras == re.search(r"litellm-resilience\[([\w,]+)\]\"\nUSER", README.read_text())[1].split(",")
