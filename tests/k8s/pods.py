"""Starts what an overlay's pods would run: its very files, arguments and environment, with only addresses and paths changed.

Of a container there is the process, and no more: its user, its image and its limits are the cluster's to give.
"""

import base64
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import yaml

from fit import pods_of
from manifests import ROOT, containers, environment, find, of_kind, port_of

PROGRAM = os.environ["SCANLOGIN_BIN"]
# What the program is told to say of the simulator in WeChat's place.
SIMULATED = ["--simulator", "true", "--wechat-api-base"]


def until(what, seconds, holds):
    """Waits until it is true of the last answer, which it gives."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def ask(url, method="GET", body=None, bearer=None, media_type="application/json"):
    """Status and text of an answer; 0 when there is nobody. A picture's text is nobody's."""
    headers = {"content-type": media_type} | ({"authorization": f"Bearer {bearer}"} if bearer else {})
    request = urllib.request.Request(url, body.encode() if body is not None else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


# Ports that were given away, to be listened on later.
GIVEN = set()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    if port in GIVEN:
        return free_port()
    GIVEN.add(port)
    return port


def free_ports(template):
    """One of this machine's for each port of the pod's."""
    return {port["containerPort"]: free_port() for container in containers(template) for port in container["ports"]}


def publish(folder, files):
    """Puts files into a volume as the kubelet does: all of them at once, by the change of one link."""
    data = folder / f"..{time.monotonic_ns()}"
    data.mkdir()
    for name, text in files.items():
        (data / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")


class Readme:
    """What k8s/README.md has one do, done: with a kubectl that makes no Secret but prints it."""

    def __init__(self, section, folder, files):
        block = re.search(rf"^```sh {section}\n(.*?)^```$", (ROOT / "k8s/README.md").read_text(), re.M | re.S)
        assert block, f"k8s/README.md has no commands for {section}"
        tools, self.folder = folder / "tools", folder
        tools.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        self._tool("scanlogin", f'exec {PROGRAM} "$@"')
        real = subprocess.run(["sh", "-c", "command -v kubectl"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        self._tool(
            "kubectl",
            f'echo "$*" >>{folder}/asked\n'
            f'case "$*" in *" create secret "*) echo --- >>{folder}/made; exec {real} "$@" --dry-run=client -o yaml >>{folder}/made;; esac',
        )
        env = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(folder)}
        # Where the overlays are, as the commands name them.
        (folder / "k8s").symlink_to(ROOT / "k8s")
        subprocess.run(["bash", "-euc", block[1]], env=env, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        self.asked = (folder / "asked").read_text().splitlines()
        self.secrets = list(yaml.safe_load_all((folder / "made").read_text()))

    def _tool(self, name, text):
        path = self.folder / "tools" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def value(self, name, key):
        return base64.b64decode(find(self.secrets, "Secret", name)["data"][key]).decode()


class Cluster:
    """The processes of one overlay, on this machine."""

    def __init__(self, objects, secrets, folder, replaced=()):
        self.objects, self.secrets, self.folder = objects, secrets, folder
        self.processes = []
        # Where a Service's name leads, on this machine, beside what the test itself put in the place of others.
        self.replaced = dict(replaced)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def names(self, template, ports):
        """From now on callers of the Services in front of these pods come here."""
        for service in of_kind(self.objects, "Service"):
            if template not in pods_of(self.objects, service):
                continue
            for port in service["spec"]["ports"]:
                here, name = f"127.0.0.1:{ports[port_of(template, port['targetPort'])]}", service["metadata"]["name"]
                self.replaced[f"{name}:{port['port']}"] = here
                if port["port"] == 80:
                    self.replaced[f"http://{name}"] = f"http://{here}"

    def change(self, text, paths, ports):
        """The same text with addresses and paths of this machine."""
        for number, here in ports.items():
            text = text.replace(f"0.0.0.0:{number}", f"127.0.0.1:{here}")
        for there, here in self.replaced.items():
            text = re.sub(rf"{re.escape(there)}(?![\w.:-])", here, text)
        for there, here in paths.items():
            text = re.sub(rf"{re.escape(there)}(?=[/\s]|$)", str(here), text, flags=re.M)
        return text

    def start(self, template, more=(), added=(), ports=None):
        """A process of this pod's only container. `added` is what files end in, by their names; `ports` what each port is here."""
        (container,) = containers(template)
        ports = ports or free_ports(template)
        paths = {}
        for mount in container.get("volumeMounts", []):
            here = self.folder / f"pod-{len(self.processes)}{mount['mountPath'].replace('/', '-')}"
            here.mkdir()
            paths[mount["mountPath"]] = here
        for mount in container.get("volumeMounts", []):
            (volume,) = [volume for volume in template["spec"]["volumes"] if volume["name"] == mount["name"]]
            files = {name: self.change(data, paths, ports) + dict(added).get(name, "") for name, data in self.files(volume).items()}
            publish(paths[mount["mountPath"]], files)
        env = {name: self.change(value, paths, ports) for name, value in environment(container).items()}
        command = [PROGRAM] if "command" not in container else container["command"]
        args = [self.change(arg, paths, ports) for arg in container.get("args", [])]
        log = self.folder / f"pod-{len(self.processes)}.log"
        with log.open("w") as output:
            process = subprocess.Popen([*command, *args, *more], env={"PATH": os.environ["PATH"]} | env, stdout=output, stderr=output)
        self.processes.append(process)
        process.log, process.ports, process.paths = log, ports, paths
        return process

    def files(self, volume):
        """What is in a volume when a pod starts."""
        if "emptyDir" in volume:
            return {}
        if "configMap" in volume:
            return find(self.objects, "ConfigMap", volume["configMap"]["name"])["data"]
        if "secret" in volume:
            names = [volume["secret"]["secretName"]]
        else:
            names = [source["secret"]["name"] for source in volume["projected"]["sources"]]
        files = {}
        for name in names:
            secret = find(self.secrets, "Secret", name)
            assert secret, f"k8s/README.md makes no Secret {name}"
            files |= {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        return files

    def probe(self, process, template, kind):
        """What the kubelet would hear."""
        (container,) = containers(template)
        where = container[kind]["httpGet"]
        number = port_of(template, where["port"])
        return ask(f"http://127.0.0.1:{process.ports[number]}{where['path']}")

    def ready(self, process, template):
        def holds():
            assert process.poll() is None, f"it ended with {process.returncode}:\n{process.log.read_text()}"
            return self.probe(process, template, "readinessProbe")[0] == 200

        return until(f"ready:\n{process.log.read_text()}", 30, holds)


def redis(folder, tls=None, cluster=False, acl=()):
    """A real server of the operator's own, with users as docs/redis.md has them; its port."""
    port = free_port()
    lines = ["bind 127.0.0.1", f"dir {folder}", 'save ""', "maxmemory-policy noeviction", "user default off"]
    if tls:
        lines += ["port 0", f"tls-port {port}", f"tls-cert-file {tls}/redis.crt", f"tls-key-file {tls}/redis.key"]
        lines += [f"tls-ca-cert-file {tls}/ca.crt", "tls-auth-clients no"]
    else:
        lines += [f"port {port}"]
    if cluster:
        lines += ["cluster-enabled yes", f"cluster-port {free_port()}", "cluster-announce-ip 127.0.0.1"]
        lines += ["tls-cluster yes"] if tls else []
    lines += [f"user {' '.join(acl)}", "user admin on >admin +@all ~* &*"]
    conf = folder / "redis.conf"
    conf.write_text("\n".join(lines) + "\n")
    with (folder / "redis.log").open("w") as log:
        process = subprocess.Popen(["redis-server", str(conf)], stdout=log, stderr=log)
    cli = ["redis-cli", "-p", str(port), "--user", "admin", "--pass", "admin", "--no-auth-warning"]
    cli += ["--tls", "--cacert", f"{tls}/ca.crt"] if tls else []

    def said(*words):
        asked = subprocess.run([*cli, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        return asked.stdout.strip()

    process.port = port
    try:
        until(f"redis-server answers, see {folder}/redis.log", 10, lambda: said("ping") == "PONG")
        if cluster:
            assert said("cluster", "addslotsrange", "0", "16383") == "OK"
            until("the Cluster is whole", 10, lambda: "cluster_state:ok" in said("cluster", "info"))
    except AssertionError:
        end(process)
        raise
    return process


def rights(password, cluster):
    """The service's user, by the lines of docs/redis.md."""
    text = (ROOT / "docs/redis.md").read_text()
    names = ["SERVICE"] + (["SERVICE IN A CLUSTER"] if cluster else [])
    words = []
    for name in names:
        block = re.search(rf"^```\n# {name}\n(.*?)^```$", text, re.M | re.S)[1]
        words += [word for line in block.splitlines() for word in line.removeprefix("ACL SETUSER scanlogin ").split()]
    return ["scanlogin", *[f">{password}" if word == ">PASSWORD" else word for word in words if word != "reset"]]


def certificates(folder):
    """An authority, and by it a certificate for this machine, in files as Redis wants them."""

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new, "-subj", "/CN=authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", *new, "-subj", "/CN=redis", "-keyout", "redis.key", "-out", "redis.csr")
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
    openssl("x509", "-req", "-in", "redis.csr", *signed, "-days", "2", "-out", "redis.crt")


def end(process, seconds=30):
    """Asks it to end; how long that took, and how it ended."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return seconds, "killed"
    return time.monotonic() - began, code


def temporary(folder, name):
    path = pathlib.Path(folder) / name
    path.mkdir()
    return path


def url_of_readme(scheme):
    """A Redis URL of k8s/README.md's table."""
    (url,) = set(re.findall(rf"`({scheme}[^`]*)`", (ROOT / "k8s/README.md").read_text()))
    return url


class Simulator:
    """A WeChat for an overlay that has the real one."""

    def __init__(self, folder):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with (folder / "simulator.log").open("w") as log:
            command = [PROGRAM, "simulate", "--listen", f"127.0.0.1:{port}", "--service-url", self.url]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
        until("the simulator answers", 10, lambda: ask(f"{self.url}/simulator/calls")[0] == 200)
