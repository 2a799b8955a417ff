"""Whether objects have the fields that Kubernetes knows, and no others."""

import functools
import json
import pathlib

import jsonschema
import kubernetes_validate

HERE = pathlib.Path(__file__).resolve().parent
# Which k8s/README.md promises, and the newest that there is a schema of.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]
OURS = {path.stem: json.loads(path.read_text()) for path in (HERE / "schemas").glob("*.json")}


def broken(objects):
    for one in objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        yield from (f"{name}: {problem}" for problem in problems(json.dumps(one)))


@functools.cache
def problems(text):
    """Of one object: most are the same from one test to the next, and reading a schema takes longest."""
    one = json.loads(text)
    if one["kind"] in OURS:
        found = jsonschema.Draft202012Validator(OURS[one["kind"]]).iter_errors(one)
        return [f"{problem.json_path}: {problem.message}" for problem in found]
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as problem:
            where = ".".join(str(step) for step in problem.path)
            found.append(f"{where}: {problem.message} (Kubernetes {version})")
    return found
