"""Whether the numbers of an installation still follow from what the program does and what was measured."""

import functools
import math
import os
import re
import subprocess

from manifests import ROOT, configuration, containers, environment, find, of_kind, server

KIB = 1024
MIB = 1024 * KIB
# As Kubernetes, docs/measurements.md and Redis write them.
UNITS = {"": 1, "m": 0.001, "Ki": KIB, "Mi": MIB, "Gi": 1024 * MIB, "kB": 1000, "MiB": MIB, "mb": MIB}
TIMES = {"s": 1, "ms": 0.001, "µs": 0.000001}


def quantity(text):
    number, unit = re.fullmatch(r"([\d.]+)\s?([A-Za-z]*)", str(text)).groups()
    return float(number) * UNITS[unit]


def seconds(file, pattern):
    """A duration of the source, in seconds: what `pattern` is before."""
    text = (ROOT / file).read_text()
    found = re.search(pattern + r"\s*Duration::from_(millis|secs|mins)\(([\d_]+)\)", text)
    assert found, f"{file} has no {pattern}: tell {__name__} what became of it"
    return int(found[2].replace("_", "")) * {"millis": 0.001, "secs": 1, "mins": 60}[found[1]]


def number(file, pattern):
    found = re.search(pattern + r"\s*([\d_]+)", (ROOT / file).read_text())
    assert found, f"{file} has no {pattern}: tell {__name__} what became of it"
    return int(found[1].replace("_", ""))


def measured(what):
    """A figure of docs/measurements.md, by the beginning of its row."""
    rows = re.findall(rf"^\| {re.escape(what)}[^|]*\| ([\d.,]+) ([A-Za-zµ]+) ", (ROOT / "docs/measurements.md").read_text(), re.M)
    assert len(rows) == 1, f"docs/measurements.md has {len(rows)} rows {what!r}"
    figure, unit = rows[0]
    figure = figure.replace(",", "")
    return float(figure) * TIMES[unit] if unit in TIMES else quantity(f"{figure} {unit}")


@functools.cache
def help_text(*command):
    return subprocess.run([os.environ["SCANLOGIN_BIN"], *command, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout


def default(setting):
    found = re.search(rf"\[env: SCANLOGIN_{setting}=\]\s+\[default: (\d+)\]", help_text())
    assert found, f"--help has no default of {setting}"
    return int(found[1])


def drain(objects):
    """How long the end takes at most, step by step."""
    return [
        int(environment(containers(server(objects))[0])["SCANLOGIN_DRAIN_DELAY"]),
        seconds("src/http.rs", "const DRAIN_SPREAD: Duration ="),
        seconds("src/app.rs", "const CLOSE: Duration ="),
        seconds("src/app/parts.rs", "const TASKS_END: Duration ="),
        seconds("src/app/parts.rs", "const STORE_ENDS: Duration ="),
        seconds("src/app/parts.rs", "const EXPORT_ENDS: Duration ="),
        *[seconds("src/telemetry/lines.rs", "const LAST: Duration =")] * 2,
        seconds("src/main.rs", "const THREADS_END: Duration ="),
    ]


def longest_answer():
    """Of those that are no stream."""
    waits = seconds("src/http/scenes.rs", "const WAIT_MOST: Duration =")
    return max(waits, seconds("src/http/load.rs", "Self::Picture =>"))


def patience(probe):
    """How long a probe takes at most to notice."""
    return probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]


def broken(objects):
    for name, holds in [*of_the_end(objects), *of_memory(objects), *of_probes(objects), *of_scaling(objects), *of_proxies(objects)]:
        if not holds:
            yield name


def of_the_end(objects):
    deployment = find(objects, "Deployment", "scanlogin")["spec"]
    spec, readiness = deployment["template"]["spec"], containers(deployment["template"])[0]["readinessProbe"]
    delay, spread, *_ = drain(objects)
    text = (ROOT / "src/http/events.rs").read_text()
    furthest = int(re.search(r"RETRY_ON_DRAIN: .* = \(Duration::from_secs\(\d+\), Duration::from_secs\((\d+)\)\)", text)[1])
    total = math.fsum(drain(objects))
    grace, roll = spec["terminationGracePeriodSeconds"], deployment["strategy"]["rollingUpdate"]
    return [
        (f"the grace period of {grace} s leaves less than half of {total:g} s to spare", grace >= 1.5 * total),
        ("the drain delay is shorter than readiness takes", delay >= patience(readiness)),
        ("the next replica leaves before the streams of the last are back", deployment["minReadySeconds"] >= spread + furthest),
        ("a roll takes a replica away before there is another", roll == {"maxSurge": 1, "maxUnavailable": 0}),
    ]


def streams_of(objects):
    return int(environment(containers(server(objects))[0])["SCANLOGIN_LIMIT_STREAMS"])


def memory_of(streams):
    stream = measured("the image's program: resident memory per idle stream, 10,000 open") + measured("kernel memory per end of a connection")
    return streams * stream + measured("the image's program (musl, jemalloc): resident memory at rest")


def of_memory(objects):
    resources = containers(server(objects))[0]["resources"]
    asked, limit = quantity(resources["requests"]["memory"]), quantity(resources["limits"]["memory"])
    tight = number("src/http/load/memory.rs", "const TIGHT_PERCENT: u64 =")
    pictures = number("src/wechat/client/transport.rs", "const CALLS_MAX: usize =") * MIB
    needed = memory_of(streams_of(objects))
    yield f"the memory asked for is less than {needed / MIB:.0f} MiB, or more than a quarter beyond", needed <= asked <= 1.25 * needed
    yield "new logins are refused before the memory that was asked for is used", tight * limit >= 100 * asked
    yield "the pictures under way do not fit into what is kept free", (100 - tight) * limit >= 100 * pictures
    redis = find(objects, "Deployment", "scanlogin-redis")
    if redis:
        limit = quantity(containers(redis["spec"]["template"])[0]["resources"]["limits"]["memory"])
        most = re.search(r"^maxmemory (\S+)$", configuration(objects, "redis.conf", "scanlogin-redis"), re.M)[1]
        yield "Redis may take more than three quarters of its container's memory", quantity(most) <= 0.75 * limit


def of_probes(objects):
    container = containers(server(objects))[0]
    asks = seconds("src/http/ops.rs", "const PROBE: Duration =")
    startup = container["startupProbe"]
    yield "readiness gives up before the service does", container["readinessProbe"]["timeoutSeconds"] > asks
    # A busy node is slower than the machine that it was measured on, and how much nobody knows: a thousandfold.
    yield "the start has no time", startup["periodSeconds"] * startup["failureThreshold"] >= 1000 * measured("start to `/readyz` 200")
    for kind in ("startupProbe", "livenessProbe"):
        yield f"{kind}: Redis away would end replicas", container[kind]["httpGet"]["path"] == "/livez"
    yield "a replica is ended before it is merely unready", patience(container["livenessProbe"]) > patience(container["readinessProbe"])


def of_scaling(objects):
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        least, metrics = spec["minReplicas"], {metric["type"]: metric for metric in spec["metrics"]}
        streams = quantity(metrics["Pods"]["pods"]["target"]["averageValue"])
        share = metrics["Resource"]["resource"]["target"]["averageUtilization"]
        life = default("SCENE_TTL")
        waiting, left = default("LIMIT_PICTURES") * life / 60, least / (least - 1)
        yield "what one Mini Program brings does not fit into all replicas but one", (least - 1) * streams >= waiting
        yield "streams of one that is gone do not fit into the others", streams * left <= streams_of(objects)
        yield "the CPU of one that is gone does not fit into the others", share * left <= 100
        window = spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
        yield "a lull shorter than a code's life sends browsers away", window >= 2 * life
        asked = quantity(containers(server(objects))[0]["resources"]["requests"]["cpu"])
        yield "the CPU asked for does not do", asked * share / 100 >= cpu_of(streams)


def cpu_of(streams):
    """Seconds of CPU in a second: so many streams, and half of all logins that one Mini Program can begin, as two replicas share them."""
    logins = default("LIMIT_PICTURES") / 60 / 2
    return logins * measured("CPU of a whole login") + streams * measured("CPU of an idle stream, each second")


def of_proxies(objects):
    longest, beat = longest_answer(), default("HEARTBEAT")
    for one in of_kind(objects, "Ingress"):
        said = {key.rpartition("/")[2]: value for key, value in one["metadata"]["annotations"].items()}
        reads = int(said["proxy-read-timeout"])
        yield "ingress-nginx gives a slow answer up", reads >= 2 * longest
        yield "ingress-nginx ends streams between two heartbeats", reads >= 4 * beat
        yield "ingress-nginx holds events back", said["proxy-buffering"] == "off"
    for one in of_kind(objects, "HTTPRoute"):
        timeouts = {rule["matches"][0]["path"]["value"]: rule["timeouts"]["request"] for rule in one["spec"]["rules"]}
        yield "the gateway ends streams", timeouts["/events/"] == "0s"
        yield "the gateway gives a slow answer up", int(timeouts["/"].removesuffix("s")) >= 2 * longest


def said(objects):
    """What the comments of k8s/ must say, as they do the same sums: text of files, and sums."""
    delay, *steps = drain(objects)
    total = math.fsum(drain(objects))
    names = ("streams", "requests", "tasks", "store", "spans", "audit log", "log", "lookups")
    summed = " + ".join(f"{name} {time:g} s" for name, time in zip(names, steps, strict=True))
    asked = memory_of(streams_of(objects)) / MIB
    return {
        "base/deployment.yaml": [
            f"Drain delay {delay} s + {summed} = {total:g} s",
            f"= {asked:.0f} MiB",
            f"= {1000 * cpu_of(4000):.0f} ms of each second",
            f"{patience(containers(server(objects))[0]['readinessProbe'])} s.",
        ],
        "README.md": [f"is gone within {total:g} s", f"serves on for {delay} s"],
    }
