"""What kubectl makes of k8s/, and how to find one's way in it."""

import functools
import pathlib
import re
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
K8S = ROOT / "k8s"
OVERLAYS = sorted(folder.name for folder in (K8S / "overlays").iterdir())
COMPONENTS = sorted(folder.name for folder in (K8S / "components").iterdir())
# Kinds that have a pod in them; the base has Deployments only, an overlay of somebody's may have others.
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
CONTAINERS = ("containers", "initContainers", "ephemeralContainers")


@functools.cache
def kustomize(folder):
    """The text of what is applied."""
    ended = subprocess.run(["kubectl", "kustomize", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    # A field that will go is told there, and nowhere else.
    assert not ended.stderr, ended.stderr
    return ended.stdout


def overlay(name):
    """Its objects, each call's anew: who changes them changes nobody else's."""
    return list(yaml.safe_load_all(kustomize(K8S / "overlays" / name)))


def component(name):
    """The base with this component, or with none."""
    with tempfile.TemporaryDirectory(dir=K8S) as folder:
        wanted = {"resources": ["../base"], "components": [f"../components/{name}"] if name else []}
        (pathlib.Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        return list(yaml.safe_load_all(kustomize.__wrapped__(folder)))


def name_of(one):
    return f"{one['kind']} {one['metadata']['name']}"


def of_kind(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def find(objects, kind, name):
    """The only one of this kind and name; None when there is none."""
    found = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    assert len(found) <= 1, f"there are {len(found)} {kind} {name}"
    return found[0] if found else None


def templates(objects):
    """Each pod that there will be: the name of what makes it, and the template."""
    return [(name_of(one), one["spec"]["template"]) for one in of_kind(objects, *WORKLOADS)]


def containers(template):
    return [container for kind in CONTAINERS for container in template["spec"].get(kind, [])]


def labels(template):
    return template["metadata"].get("labels", {})


def matches(selector, template):
    """As Kubernetes does, as far as we use it."""
    assert set(selector) <= {"matchLabels"}, f"{selector}: only matchLabels are understood here"
    return selector.get("matchLabels", {}).items() <= labels(template).items()


def port_of(template, port):
    """The number of a port by its number or name, if a container of the pod has it."""
    for container in containers(template):
        for has in container.get("ports", []):
            if port in (has["containerPort"], has.get("name")):
                return has["containerPort"]
    return None


def server(objects):
    """The pods of the service itself."""
    return find(objects, "Deployment", "scanlogin")["spec"]["template"]


def environment(container):
    return {one["name"]: one.get("value") for one in container.get("env", [])}


def configuration(objects, file="scanlogin.toml", of="scanlogin"):
    """The text of a file of the ConfigMap that this template's volumes name; its name ends in a hash."""
    for one in of_kind(objects, "ConfigMap"):
        if re.fullmatch(rf"{of}-[0-9a-z]{{10}}", one["metadata"]["name"]) and file in one["data"]:
            return one["data"][file]
    raise AssertionError(f"there is no ConfigMap {of} with {file}, of a name that a change changes")
