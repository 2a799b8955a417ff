"""What k8s/ says, and whether the checks of it would notice."""

import pathlib
import re
import shutil
import tempfile
import tomllib
import unittest

import yaml

import arithmetic
import fields
import fit
import restricted
from manifests import COMPONENTS, K8S, OVERLAYS, ROOT, component, configuration, kustomize, overlay
from manifests import containers, environment, find, name_of, of_kind, server, templates

# Where the example overlays have their Redis, as k8s/README.md writes it.
URLS = re.findall(r"rediss?[-a-z]*://[^\s`\"]+@[^\s`\"]+", (K8S / "README.md").read_text())
REDIS_URLS = {url.split("@")[1].split(":")[0]: url for url in URLS}
REDIS = {
    "dev": [REDIS_URLS["scanlogin-redis"]],
    "production": [REDIS_URLS["redis.internal"]],
    "cluster": [REDIS_URLS["redis-0.internal"]],
}


def settings_broken(objects):
    """Environment variables that the program does not know."""
    for name, template in templates(objects):
        for container in containers(template):
            said = arithmetic.help_text(*(["simulate"] if container.get("args") == ["simulate"] else []))
            known = set(re.findall(r"\[env:\s+(\w+)", said))
            yield from (f"{name}: there is no setting {one}" for one in sorted(set(environment(container)) - known))


def alerts_broken(objects):
    """Metrics in expressions that the program does not have."""
    files = [ROOT / "src/telemetry.rs", *(ROOT / "src/telemetry").rglob("*.rs"), ROOT / "src/audit.rs"]
    known = {name for file in files for name in re.findall(r'"([a-z_]+)"', file.read_text())}
    for rule in of_kind(objects, "PrometheusRule"):
        for alert in [alert for group in rule["spec"]["groups"] for alert in group["rules"]]:
            for metric in set(re.findall(r"scanlogin_[a-z_]+", alert["expr"])):
                if not {metric.removeprefix("scanlogin_"), re.sub("_(count|sum|bucket)$", "", metric).removeprefix("scanlogin_")} & known:
                    yield f"{alert['alert']}: there is no metric {metric}"
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if "pods" in metric]:
            if metric.removeprefix("scanlogin_") not in known:
                yield f"{name_of(scaler)}: there is no metric {metric}"


def everything(objects, redis_urls):
    """What is wrong with an installation. What has no sound shape is asked nothing further."""
    checks = [
        fields.broken,
        restricted.broken,
        restricted.beyond,
        fit.broken,
        lambda objects: fit.shut(objects, redis_urls),
        settings_broken,
        alerts_broken,
        arithmetic.broken,
    ]
    return next((found for found in (list(check(objects)) for check in checks) if found), [])


class Manifests(unittest.TestCase):
    def each(self):
        return [(name, overlay(name)) for name in OVERLAYS]

    def test_every_overlay_has_the_fields_that_kubernetes_knows(self):
        for name, objects in self.each():
            self.assertGreater(len(objects), 10)
            self.assertEqual(list(fields.broken(objects)), [], name)

    def test_every_component_fits_the_base_alone(self):
        base = {name_of(one) for one in component(None)}
        for name in COMPONENTS:
            objects = component(name)
            self.assertEqual(list(fields.broken(objects)), [], name)
            self.assertGreater({name_of(one) for one in objects}, base, name)

    def test_every_overlay_and_component_is_used(self):
        used = "".join((K8S / "overlays" / name / "kustomization.yaml").read_text() for name in OVERLAYS)
        for name in COMPONENTS:
            self.assertIn(f"../../components/{name}\n", used)
        self.assertEqual(set(OVERLAYS), set(REDIS))

    def test_every_pod_keeps_to_the_restricted_profile_and_to_less(self):
        for name, objects in self.each():
            self.assertEqual(restricted.broken(objects), [], name)
            self.assertEqual(list(restricted.beyond(objects)), [], name)
            (namespace,) = of_kind(objects, "Namespace")
            self.assertEqual(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")

    def test_everything_is_in_the_namespace(self):
        for name, objects in self.each():
            for one in objects:
                if one["kind"] != "Namespace":
                    self.assertEqual(one["metadata"].get("namespace"), "scanlogin", name_of(one))

    def test_selectors_ports_and_names_fit(self):
        for name, objects in self.each():
            self.assertEqual(list(fit.broken(objects)), [], name)

    def test_network_policies_leave_every_way_that_somebody_goes(self):
        for name, objects in self.each():
            self.assertEqual(list(fit.shut(objects, REDIS[name])), [], name)

    def test_network_policies_leave_no_other_way_in(self):
        for name, objects in self.each():
            for whose, template in templates(objects):
                self.assertTrue(fit.policies_of(objects, template, "Ingress"), f"anybody may call {name}: {whose}")
                self.assertTrue(fit.policies_of(objects, template, "Egress"), f"{name}: {whose} may call anybody")
                self.assertFalse(fit.leaves(objects, template, None, 22), f"{name}: {whose}")
                self.assertFalse(fit.enters(objects, template, 22, None), f"{name}: {whose}")

    def test_every_environment_variable_is_a_setting(self):
        for name, objects in self.each():
            self.assertEqual(list(settings_broken(objects)), [], name)

    def test_what_the_deployment_sets_is_not_in_the_file_too(self):
        for name, objects in self.each():
            (container,) = containers(server(objects))
            set_here = {name.removeprefix("SCANLOGIN_").lower() for name in environment(container)}
            self.assertEqual(set_here & set(tomllib.loads(configuration(objects))), set(), name)

    def test_every_metric_is_one_of_the_programs(self):
        for name, objects in self.each():
            self.assertEqual(list(alerts_broken(objects)), [], name)

    def test_where_runbooks_are_is_said_once(self):
        self.assertEqual(self.runbooks(overlay("production")), {"docs/operations.md"})
        with tempfile.TemporaryDirectory() as folder:
            for part in (K8S, ROOT / "monitoring"):
                shutil.copytree(part, pathlib.Path(folder) / part.name)
            file = pathlib.Path(folder) / "k8s/components/monitoring/runbooks.yaml"
            address = "https://git.example/scanlogin/docs/operations.md"
            file.write_text(re.sub(r"^  address: .*$", f"  address: {address}", file.read_text(), flags=re.M))
            objects = list(yaml.safe_load_all(kustomize(pathlib.Path(folder) / "k8s/overlays/production")))
        self.assertEqual(self.runbooks(objects), {address})
        self.assertEqual({name_of(one) for one in objects}, {name_of(one) for one in overlay("production")})
        self.assertIsNone(find(objects, "ConfigMap", "scanlogin-runbooks"))

    def runbooks(self, objects):
        """What stands before the section in each alert's address."""
        (rule,) = of_kind(objects, "PrometheusRule")
        urls = [alert["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for alert in group["rules"]]
        self.assertGreater(len(urls), 30)
        for url in urls:
            self.assertRegex(url, "#scanlogin[a-z]+$")
        return {url.split("#")[0] for url in urls}

    def test_the_numbers_follow_from_the_program_and_what_was_measured(self):
        for name, objects in self.each():
            self.assertEqual(list(arithmetic.broken(objects)), [], name)

    def test_the_comments_do_the_same_sums(self):
        for file, sums in arithmetic.said(overlay("production")).items():
            # A comment of several lines is one text.
            text = re.sub(r"\s*\n\s*# ", " ", (K8S / file).read_text())
            for one in sums:
                self.assertTrue(one in text, f"k8s/{file} does not say {one!r}")

    def test_the_image_is_of_this_version_and_secrets_are_in_no_file(self):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        for name, objects in self.each():
            self.assertEqual(containers(server(objects))[0]["image"], f"scanlogin:{version}")
            self.assertEqual(of_kind(objects, "Secret"), [])


def plant(objects, fault):
    """Puts one fault of faults.yaml into an installation."""
    place = fault["in"]
    pod = server(objects)["spec"]
    container = pod["containers"][0]
    known = {"pod": pod, "container": container, "context": container["securityContext"]}
    known |= {one["name"]: one for one in container["env"]} | {name_of(one): one for one in objects}
    *way, last = [step.replace("~1", "/") for step in fault.get("set", fault.get("take")).split("/")]
    there = known[place]
    for step in way:
        there = there[int(step) if isinstance(there, list) else step]
    if "take" in fault:
        del there[int(last) if isinstance(there, list) else last]
    elif last == "-":
        there.append(fault["to"])
    else:
        there[last] = fault["to"]


class Checks(unittest.TestCase):
    def test_each_planted_fault_is_found(self):
        self.assertEqual(everything(overlay("production"), REDIS["production"]), [])
        faults = yaml.safe_load((pathlib.Path(__file__).parent / "faults.yaml").read_text())
        self.assertGreater(len(faults), 60)
        for fault in faults:
            with self.subTest(fault["fault"]):
                objects = overlay("production")
                plant(objects, fault)
                found = everything(objects, REDIS["production"])
                self.assertTrue(any(fault["found"] in one for one in found), f"{fault['found']!r} is not among {found}")

    def test_a_profile_of_apparmor_that_older_versions_do_not_know_is_looked_at_all_the_same(self):
        objects = overlay("production")
        containers(server(objects))[0]["securityContext"]["appArmorProfile"] = {"type": "Unconfined"}
        self.assertEqual(restricted.broken(objects), ["Deployment scanlogin: AppArmor: scanlogin"])

    def test_a_gateway_that_ends_streams_is_found(self):
        objects = overlay("cluster")
        find(objects, "HTTPRoute", "scanlogin")["spec"]["rules"][0]["timeouts"]["request"] = "60s"
        self.assertIn("the gateway ends streams", everything(objects, REDIS["cluster"]))

    def test_a_service_whose_policy_is_missing_is_found(self):
        objects = overlay("dev")
        objects.remove(find(objects, "NetworkPolicy", "scanlogin-dev"))
        found = everything(objects, REDIS["dev"])
        self.assertIn("the service may not call scanlogin-redis:6379", found)
        self.assertIn("the service may not call scanlogin-simulator:8090", found)
        self.assertIn("scanlogin may not be called by the simulator at 8080", found)

    def test_a_redis_that_fills_its_container_is_found(self):
        objects = overlay("dev")
        redis = find(objects, "Deployment", "scanlogin-redis")["spec"]["template"]["spec"]["containers"][0]
        redis["resources"]["limits"]["memory"] = "100Mi"
        self.assertIn("Redis may take more than three quarters of its container's memory", everything(objects, REDIS["dev"]))


if __name__ == "__main__":
    unittest.main()
