"""The pod security standard `restricted`, rule by rule, in the order and the words of Kubernetes's own page of them."""

from manifests import CONTAINERS, templates

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SECCOMP = {"RuntimeDefault", "Localhost"}
APPARMOR = {None, "RuntimeDefault", "Localhost"}
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


def broken(objects):
    """Each rule that a pod breaks, in words."""
    return [f"{name}: {what}" for name, template in templates(objects) for what in of_pod(template)]


def of_pod(template):
    spec = template["spec"]
    pod = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"host namespaces: {name}"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume types: {volume['name']} is a {', '.join(kinds)}"
    for sysctl in pod.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctls: {sysctl['name']}"
    for key, value in template["metadata"].get("annotations", {}).items():
        if key.startswith(APPARMOR_ANNOTATION) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"AppArmor: {value}"
    yield from of_context(pod, "the pod")
    for kind in CONTAINERS:
        for container in spec.get(kind, []):
            yield from of_container(container, pod)


def of_context(context, whose):
    """What a pod and a container may say alike."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"HostProcess: {whose}"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"SELinux: {whose} with {selinux}"
    if context.get("appArmorProfile", {}).get("type") not in APPARMOR:
        yield f"AppArmor: {whose}"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in SECCOMP:
        yield f"seccomp: {whose} is {context['seccompProfile']['type']}"
    if context.get("runAsUser") == 0:
        yield f"running as non-root user: {whose} is 0"


def of_container(container, pod):
    name, context = container["name"], container.get("securityContext", {})
    yield from of_context(context, name)
    if context.get("privileged"):
        yield f"privileged containers: {name}"
    if context.get("procMount", "Default") != "Default":
        yield f"/proc mount type: {name}"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"host ports: {name}"
    for what in host_of_probes(container):
        yield f"host probes / lifecycle hooks: {name}: {what}"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"privilege escalation: {name}"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"running as non-root: {name}"
    if "seccompProfile" not in context and "seccompProfile" not in pod:
        yield f"seccomp: {name} has none"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"capabilities: {name} keeps some"
    if not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
        yield f"capabilities: {name} gets {capabilities['add']}"


def host_of_probes(container):
    handlers = [(kind, container.get(kind, {})) for kind in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += [(kind, handler or {}) for kind, handler in container.get("lifecycle", {}).items()]
    for kind, handler in handlers:
        if handler.get("httpGet", {}).get("host") or handler.get("tcpSocket", {}).get("host"):
            yield kind


def beyond(objects):
    """What we ask of ourselves on top: nothing to write to, no token, and no names from Services in the environment."""
    for name, template in templates(objects):
        spec = template["spec"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: has a token of the cluster's"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name}: Services put names into its environment"
        for kind in CONTAINERS:
            for container in spec.get(kind, []):
                if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                    yield f"{name}: {container['name']} can write to its image"
