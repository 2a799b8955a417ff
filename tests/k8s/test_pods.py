"""The program, started as the overlays' pods start it."""

import base64
import hashlib
import json
import pathlib
import re
import subprocess
import tempfile
import unittest
import urllib.parse
import urllib.request

import pods
from manifests import containers, find, of_kind, overlay, port_of, server
from pods import Cluster, Readme, ask, end, temporary

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
# Whose commands of k8s/README.md an overlay is made by.
SECTIONS = {"dev": "dev", "production": "production", "cluster": "production"}


class Pods(unittest.TestCase):
    """Of one overlay each."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def follow(self, name, files):
        """What k8s/README.md says, in its order."""
        readme = Readme(SECTIONS[name], temporary(self.folder, "operator"), files)
        asked = readme.asked
        self.assertEqual(asked[0], "apply -f k8s/base/namespace.yaml")
        applied = asked.index(f"apply -k k8s/overlays/{SECTIONS[name]}")
        made = [number for number, words in enumerate(asked) if " create secret " in words]
        self.assertTrue(made and max(made) < applied, asked)
        self.assertIn("-n scanlogin rollout status deployment/scanlogin", asked)
        return readme

    def serves(self, cluster, process):
        """Every path and port that the manifests name, as they name it."""
        template = server(cluster.objects)
        (container,) = containers(template)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(cluster.probe(process, template, kind)[0], 200, kind)
        here = {name: process.ports[port_of(template, name)] for name in ("http", "ops")}
        for one in of_kind(cluster.objects, "ServiceMonitor"):
            for endpoint in one["spec"]["endpoints"]:
                status, text = ask(f"http://127.0.0.1:{here[endpoint['port']]}{endpoint['path']}")
                self.assertEqual(status, 200)
                self.assertIn("\nscanlogin_streams_open 0\n", text)
        for scaler in of_kind(cluster.objects, "HorizontalPodAutoscaler"):
            metric = next(one["pods"]["metric"]["name"] for one in scaler["spec"]["metrics"] if "pods" in one)
            self.assertIn(f"\n{metric} ", ask(f"http://127.0.0.1:{here['ops']}/metrics")[1])
        # Operators' paths are not the public's.
        self.assertEqual(ask(f"http://127.0.0.1:{here['http']}/metrics")[0], 404)
        status, text = ask(f"http://127.0.0.1:{here['http']}/.well-known/openid-configuration")
        self.assertEqual((status, json.loads(text)["issuer"]), (200, json.loads(text)["token_endpoint"].removesuffix("/token")))
        for line in process.log.read_text().splitlines():
            self.assertIn("level", json.loads(line), "SCANLOGIN_LOG")
        self.assertEqual(len(container["ports"]), len(here))

    def leaves(self, cluster, processes):
        """Asked to end, each says at once that it is not ready, and is gone within its grace."""
        template = server(cluster.objects)
        grace = template["spec"]["terminationGracePeriodSeconds"]
        for process in processes:
            process.terminate()
        for process in processes:
            pods.until("it is unready", 5, lambda process=process: cluster.probe(process, template, "readinessProbe")[0] == 503)
            self.assertEqual(cluster.probe(process, template, "livenessProbe")[0], 200)
        for process in processes:
            self.assertEqual(process.wait(grace), 0, process.log.read_text())

    def test_dev_logs_somebody_in_through_both_replicas(self):
        readme = self.follow("dev", {})
        objects = overlay("dev")
        with Cluster(objects, readme.secrets, self.folder) as cluster:
            names = ("", "-redis", "-simulator")
            templates = {name: find(objects, "Deployment", f"scanlogin{name}")["spec"]["template"] for name in names}
            ports = {name: pods.free_ports(template) for name, template in templates.items()}
            for name, template in templates.items():
                cluster.names(template, ports[name])
            (redis_port,) = ports["-redis"].values()
            cluster.start(templates["-redis"], added={"redis.conf": f"bind 127.0.0.1\nport {redis_port}\n"}, ports=ports["-redis"])
            simulator = cluster.start(templates["-simulator"], ports=ports["-simulator"])
            cluster.ready(simulator, templates["-simulator"])
            self.assertEqual(find(objects, "Deployment", "scanlogin")["spec"]["replicas"], 2)
            replicas = [cluster.start(templates[""], ports=ports[""]), cluster.start(templates[""])]
            for replica in replicas:
                cluster.ready(replica, templates[""])
                self.serves(cluster, replica)
            self.log_in(*[f"http://127.0.0.1:{replica.ports[8080]}" for replica in replicas], cluster.replaced["scanlogin-simulator:8090"])
            self.keys_change(replicas[1])
            public = f"http://127.0.0.1:{replicas[0].ports[8080]}"
            with self.stream(public) as stream:
                self.assertTrue(pods.until("it is said when to come again", 5, lambda: stream.readline().startswith(b"retry:")))
                self.leaves(cluster, replicas)
                # Sent away, and not cut off: what a stream ends with is when to come again.
                self.assertEqual(stream.read().decode().strip().splitlines()[-1].split(":")[0], "retry")

    def stream(self, public):
        """A browser's, open and waiting."""
        scene = json.loads(ask(f"{public}/scenes", "POST", json.dumps({"code_challenge": CHALLENGE}))[1])
        bearer = {"authorization": f"Bearer {scene['browser_secret']}"}
        return urllib.request.urlopen(urllib.request.Request(scene["events_url"].replace("http://127.0.0.1:8080", public), headers=bearer))

    def keys_change(self, process):
        """A Secret of other keys is taken as it comes into the pod, without a restart."""

        def published():
            return {key["kid"] for key in json.loads(ask(f"http://127.0.0.1:{process.ports[8080]}/jwks.json")[1])["keys"]}

        old, folder = published(), process.paths["/run/secrets/scanlogin"]
        files = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
        keys = json.loads(files["signing-keys.json"])
        # In no environment of ours: SCANLOGIN_BIN is no setting.
        new = subprocess.run([pods.PROGRAM, "keys", "new"], env={}, stdout=subprocess.PIPE, check=True)
        keys["keys"] += json.loads(new.stdout)["keys"]
        pods.publish(folder, files | {"signing-keys.json": json.dumps(keys)})
        pods.until("the new key is published", 15, lambda: published() > old)

    def log_in(self, first, second, simulator):
        """The browser is at one replica, the phone at the other."""
        status, text = ask(f"{first}/scenes", "POST", json.dumps({"code_challenge": CHALLENGE}))
        self.assertEqual(status, 201, text)
        scene = json.loads(text)
        here = f"{second}/scenes/{scene['scene']}"
        self.assertEqual(ask(f"{first}/scenes/{scene['scene']}/code")[0], 200)
        code = json.loads(ask(f"http://{simulator}/simulator/login", "POST", "{}")[1])["code"]
        status, text = ask(f"{here}/scan", "POST", json.dumps({"code": code, "entry_scene": 1047}))
        self.assertEqual(status, 200, text)
        self.assertEqual(ask(f"{here}/confirm", "POST", "{}", json.loads(text)["confirm_token"])[0], 200)
        status, text = ask(f"{first}/events/{scene['scene']}", bearer=scene["browser_secret"])
        self.assertIn("event: confirmed", text)
        form = {"grant_type": "authorization_code", "code": re.search(r'"code":"([^"]+)"', text)[1]}
        form |= {"client_id": "demo", "code_verifier": VERIFIER}
        status, text = ask(f"{second}/token", "POST", urllib.parse.urlencode(form), media_type="application/x-www-form-urlencoded")
        self.assertEqual(status, 200, text)
        self.assertIn("id_token", json.loads(text))
        # The phone's page is where the simulator is told to say that it is, and calls the service through it.
        self.assertEqual(ask(f"http://{simulator}/simulator/phone?scene={scene['scene']}")[0], 200)

    def with_redis_elsewhere(self, name, url_of, cluster_mode):
        """An overlay whose Redis is the operator's: over TLS, with the rights of docs/redis.md and no others."""
        password, tls = "p" * 32, temporary(self.folder, "tls")
        pods.certificates(tls)
        files = {"redis-url": f"{url_of(password)}\n", "redis-ca.crt": (tls / "ca.crt").read_text()}
        readme = self.follow(name, files | {"wechat-secret": "w" * 32 + "\n", "client-secret": "c" * 32 + "\n"})
        objects = overlay(name)
        redis = pods.redis(temporary(self.folder, "redis"), tls, cluster_mode, pods.rights(password, cluster_mode))
        self.addCleanup(end, redis)
        hosts = {host: f"127.0.0.1:{redis.port}" for host in re.findall(r"[@=]([\w.-]+:\d+)", url_of(password))}
        simulator = pods.Simulator(self.folder)
        self.addCleanup(end, simulator.process)
        template = server(objects)
        with Cluster(objects, readme.secrets, self.folder, hosts) as cluster:
            process = cluster.start(template, [*pods.SIMULATED, simulator.url])
            cluster.ready(process, template)
            self.serves(cluster, process)
            public = f"http://127.0.0.1:{process.ports[8080]}"
            status, text = ask(f"{public}/scenes", "POST", '{"client_id": "site"}')
            self.assertEqual(status, 201, text)
            self.assertTrue(json.loads(text)["code_url"].startswith("https://login.site.example/"))
            self.leaves(cluster, [process])

    def test_production_runs_on_a_redis_over_tls_with_the_least_rights(self):
        self.with_redis_elsewhere("production", lambda password: pods.url_of_readme("rediss://").replace("PASSWORD", password), False)

    def test_cluster_runs_on_a_redis_cluster_over_tls_with_the_least_rights(self):
        self.with_redis_elsewhere("cluster", lambda password: pods.url_of_readme("rediss-cluster://").replace("PASSWORD", password), True)

    def test_a_key_that_is_no_setting_stops_the_start(self):
        readme = self.follow("dev", {})
        objects = overlay("dev")
        for one in of_kind(objects, "ConfigMap"):
            if "scanlogin.toml" in one["data"]:
                one["data"]["scanlogin.toml"] += "trusted_proxy = '10.0.0.0/8'\n"
        with Cluster(objects, readme.secrets, self.folder) as cluster:
            process = cluster.start(server(objects))
            self.assertEqual(process.wait(10), 2)
            self.assertIn("trusted_proxy", process.log.read_text())

    def test_a_secret_that_nobody_makes_is_missed(self):
        readme = self.follow("dev", {})
        readme.secrets.remove(find(readme.secrets, "Secret", "scanlogin-signing-keys"))
        objects = overlay("dev")
        with Cluster(objects, readme.secrets, self.folder) as cluster:
            with self.assertRaisesRegex(AssertionError, "makes no Secret scanlogin-signing-keys"):
                cluster.start(server(objects))

    def test_a_probe_of_another_path_is_not_answered(self):
        readme = self.follow("dev", {})
        objects = overlay("dev")
        with Cluster(objects, readme.secrets, self.folder, {"scanlogin-redis:6379": f"127.0.0.1:{pods.free_port()}"}) as cluster:
            template = server(objects)
            process = cluster.start(template)
            pods.until("it lives", 10, lambda: cluster.probe(process, template, "livenessProbe")[0] == 200)
            # Without Redis it runs, and is not ready: what the startup probe must not ask for.
            self.assertEqual(cluster.probe(process, template, "readinessProbe")[0], 503)
            containers(template)[0]["livenessProbe"]["httpGet"]["path"] = "/healthz"
            self.assertEqual(cluster.probe(process, template, "livenessProbe")[0], 404)


if __name__ == "__main__":
    unittest.main()
