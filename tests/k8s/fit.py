"""Whether the objects of an installation fit each other: selectors, ports, names, and the ways that network policies leave."""

import re
from urllib.parse import urlsplit

from manifests import configuration, containers, environment, find, matches, name_of, of_kind, port_of, server, templates

# Where each scheme's callers go when the URL names no port.
PORTS = {"http": 80, "https": 443}


def broken(objects):
    """Everything that names something which is not there."""
    for check in (of_selectors, of_services, of_probes, of_routes, of_volumes, of_budgets, of_policies, of_monitoring):
        yield from check(objects)


def of_selectors(objects):
    for one in of_kind(objects, "Deployment"):
        template = one["spec"]["template"]
        if not matches(one["spec"]["selector"], template):
            yield f"{name_of(one)}: its selector does not match its own pods"
        for spread in template["spec"].get("topologySpreadConstraints", []):
            if not matches(spread["labelSelector"], template):
                yield f"{name_of(one)}: spreads pods that are not its own"
        account = template["spec"].get("serviceAccountName", "default")
        if not find(objects, "ServiceAccount", account):
            yield f"{name_of(one)}: there is no ServiceAccount {account}"
        others = [name for name, other in templates(objects) if matches(one["spec"]["selector"], other)]
        if len(others) > 1:
            yield f"{name_of(one)}: its selector matches pods of {' and '.join(others)}"


def pods_of(objects, service):
    selector = {"matchLabels": service["spec"]["selector"]}
    return [template for _, template in templates(objects) if matches(selector, template)]


def target(objects, name, port):
    """The pod and its port behind a Service's port, by its number or name."""
    service = find(objects, "Service", name)
    ports = service["spec"]["ports"] if service else []
    for one in ports:
        if port in (one["port"], one.get("name")):
            for template in pods_of(objects, service):
                return template, port_of(template, one["targetPort"])
    return None, None


def of_services(objects):
    for service in of_kind(objects, "Service"):
        pods = pods_of(objects, service)
        if len(pods) != 1:
            yield f"{name_of(service)}: its selector matches {len(pods)} kinds of pods"
        for port in service["spec"]["ports"]:
            if any(port_of(template, port["targetPort"]) is None for template in pods):
                yield f"{name_of(service)}: its pods have no port {port['targetPort']}"


def of_probes(objects):
    for name, template in templates(objects):
        for container in containers(template):
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                port = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
                if probe and port_of(template, port) is None:
                    yield f"{name}: {kind}: there is no port {port}"


def of_routes(objects):
    public = urlsplit(public_url(objects)).hostname
    hosts, backends = set(), []
    for one in of_kind(objects, "Ingress"):
        for rule in one["spec"]["rules"]:
            hosts.add(rule["host"])
            backends += [path["backend"]["service"] for path in rule["http"]["paths"]]
        secured = {host for entry in one["spec"].get("tls", []) for host in entry["hosts"]}
        if secured != {rule["host"] for rule in one["spec"]["rules"]}:
            yield f"{name_of(one)}: has no certificate for each host"
    for one in of_kind(objects, "HTTPRoute"):
        hosts |= set(one["spec"]["hostnames"])
        backends += [{"name": ref["name"], "port": {"number": ref["port"]}} for rule in one["spec"]["rules"] for ref in rule["backendRefs"]]
    for backend in backends:
        port = next(iter(backend["port"].values()))
        if target(objects, backend["name"], port)[1] is None:
            yield f"a route leads to {backend['name']}, port {port}, where there is none"
    yield from (f"a route is of {host}, and public_url of {public}" for host in sorted(hosts - {public}))


def of_volumes(objects):
    made = {one["metadata"]["name"] for one in of_kind(objects, "ConfigMap")}
    for name, template in templates(objects):
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        mounted = {mount["name"] for container in containers(template) for mount in container.get("volumeMounts", [])}
        yield from (f"{name}: there is no volume {volume}" for volume in sorted(mounted - set(volumes)))
        yield from (f"{name}: nobody mounts {volume}" for volume in sorted(set(volumes) - mounted))
        wanted = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
        yield from (f"{name}: there is no ConfigMap {one}" for one in sorted(wanted - made))


def of_budgets(objects):
    for one in of_kind(objects, "PodDisruptionBudget"):
        if not any(matches(one["spec"]["selector"], template) for _, template in templates(objects)):
            yield f"{name_of(one)}: its selector matches no pods"
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        ref = one["spec"]["scaleTargetRef"]
        scaled = find(objects, ref["kind"], ref["name"])
        if not scaled:
            yield f"{name_of(one)}: there is no {ref['kind']} {ref['name']}"
        elif "replicas" in scaled["spec"]:
            yield f"{name_of(one)}: each apply would overrule it, as {name_of(scaled)} says how many replicas"


def of_policies(objects):
    for one in of_kind(objects, "NetworkPolicy"):
        pods = [template for _, template in templates(objects) if matches(one["spec"]["podSelector"], template)]
        if not pods:
            yield f"{name_of(one)}: its selector matches no pods"
        for port in [port["port"] for rule in one["spec"].get("ingress", []) for port in rule.get("ports", [])]:
            if any(port_of(template, port) is None for template in pods):
                yield f"{name_of(one)}: its pods have no port {port}"
        rules = one["spec"].get("ingress", []) + one["spec"].get("egress", [])
        for peer in [peer for rule in rules for peer in rule.get("from", []) + rule.get("to", [])]:
            if "podSelector" in peer and "namespaceSelector" not in peer:
                if not any(matches(peer["podSelector"], template) for _, template in templates(objects)):
                    yield f"{name_of(one)}: {peer['podSelector']['matchLabels']} matches no pods"


def of_monitoring(objects):
    for one in of_kind(objects, "ServiceMonitor"):
        wanted = one["spec"]["selector"]["matchLabels"].items()
        watched = [service for service in of_kind(objects, "Service") if wanted <= service["metadata"].get("labels", {}).items()]
        if len(watched) != 1:
            yield f"{name_of(one)}: its selector matches {len(watched)} Services"
        for service in watched:
            for endpoint in one["spec"]["endpoints"]:
                if endpoint["port"] not in [port["name"] for port in service["spec"]["ports"]]:
                    yield f"{name_of(one)}: {name_of(service)} has no port {endpoint['port']}"


def public_url(objects):
    return re.search(r'^public_url = "(.*)"$', configuration(objects), re.M)[1]


def shut(objects, redis_urls):
    """Each way that somebody has to go, and that a network policy does not leave."""
    for name, template, scheme_and_hosts in calls(objects, redis_urls):
        for host, port in scheme_and_hosts:
            behind, number = target(objects, host, port)
            if find(objects, "Service", host) and behind is None:
                yield f"{name} calls {host}:{port}, and there is no such port"
                continue
            if not leaves(objects, template, behind, number or port):
                yield f"{name} may not call {host}:{port}"
            if behind and not enters(objects, behind, number, template):
                yield f"{host} may not be called by {name} at {number}"
        if not all(leaves(objects, template, None, 53, protocol) for protocol in ("UDP", "TCP")):
            yield f"{name} may not ask for names"
    for kind, service, port in visitors(objects):
        behind, number = target(objects, service, port)
        if behind and not enters(objects, behind, number, None):
            yield f"{kind} leads to {service}, which nobody may call at {number}"


def calls(objects, redis_urls):
    """Who calls whom: a pod's name and template, and hosts with ports."""
    text = configuration(objects)
    wechat = re.search(r'^wechat_api_base = "(.*)"$', text, re.M)
    wanted = [address(wechat[1] if wechat else "https://api.weixin.qq.com")]
    for url in redis_urls:
        wanted += re.findall(r"[@=]([\w.-]+):(\d+)", url)
    assert len(wanted) > 1, "it is not known where Redis is"
    yield "the service", server(objects), [(host, int(port)) for host, port in wanted]
    simulator = find(objects, "Deployment", "scanlogin-simulator")
    if simulator:
        template = simulator["spec"]["template"]
        url = environment(containers(template)[0])["SCANLOGIN_SIMULATE_SERVICE_URL"]
        yield "the simulator", template, [address(url)]


def address(url):
    parts = urlsplit(url)
    return parts.hostname, parts.port or PORTS[parts.scheme]


def visitors(objects):
    """What brings callers from outside of the namespace: to which Service, at which port."""
    for one in of_kind(objects, "Ingress"):
        for path in [path for rule in one["spec"]["rules"] for path in rule["http"]["paths"]]:
            service = path["backend"]["service"]
            yield name_of(one), service["name"], next(iter(service["port"].values()))
    for one in of_kind(objects, "HTTPRoute"):
        for ref in [ref for rule in one["spec"]["rules"] for ref in rule["backendRefs"]]:
            yield name_of(one), ref["name"], ref["port"]
    for one in of_kind(objects, "ServiceMonitor"):
        yield from ((name_of(one), "scanlogin-ops", endpoint["port"]) for endpoint in one["spec"]["endpoints"])


def policies_of(objects, template, direction):
    """Those that a pod is under; with none everything is open."""
    chosen = [one["spec"] for one in of_kind(objects, "NetworkPolicy") if matches(one["spec"]["podSelector"], template)]
    return [spec for spec in chosen if direction in spec["policyTypes"]]


def leaves(objects, template, to, port, protocol="TCP"):
    """Whether a pod may call another, or (`None`) somebody outside."""
    policies = policies_of(objects, template, "Egress")
    rules = [rule for spec in policies for rule in spec.get("egress", [])]
    return not policies or any(allows(rule, rule.get("to"), to, to, port, protocol) for rule in rules)


def enters(objects, template, port, caller):
    """Whether a pod may be called at a port by another, or (`None`) by pods of some other namespace."""
    policies = policies_of(objects, template, "Ingress")
    rules = [rule for spec in policies for rule in spec.get("ingress", [])]
    return not policies or any(allows(rule, rule.get("from"), caller, template, port, "TCP") for rule in rules)


def allows(rule, peers, pod, callee, port, protocol):
    """`callee` is the pod whose ports have names."""

    def number(of):
        return (port_of(callee, of) if callee else None) or of

    ports = [(number(one["port"]), one.get("protocol", "TCP")) for one in rule.get("ports", [])]
    if ports and (port, protocol) not in ports:
        return False
    if not peers:
        return True
    if pod is None:
        return any("ipBlock" in peer or "namespaceSelector" in peer for peer in peers)
    return any("podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], pod) for peer in peers)
