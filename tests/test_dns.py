"""Names inside the cluster, asked with dig from pods: the Kubernetes DNS specification, forwarding, and pods' own settings."""

import json
import subprocess
import sys

import pytest
from harness import eventually, run
from pods import apply, endpoint_addresses, in_pod, in_pod_network, publish_shell, shell_pod, wait_ready

DNS = "10.96.0.10"
PORT = 5300

# Answers every A question with 203.0.113.7, but NXDOMAIN (with a SOA) for names that begin with "no-"; counts on a line each.
UPSTREAM = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    m, peer = s.recvfrom(4096)
    end, labels = 12, []
    while m[end]:
        labels.append(m[end + 1:end + 1 + m[end]].decode().lower()); end += 1 + m[end]
    question = m[12:end + 5]
    print(".".join(labels), flush=True)
    if labels[0].startswith("no-"):
        soa = b"\\0\\0" + struct.pack("!5I", 1, 60, 60, 60, 60)
        answer = struct.pack("!HHHHHH", *struct.unpack("!H", m[:2]), 0x8183, 1, 0, 1, 0) + question + b"\\xc0\\x0c" + struct.pack("!HHIH", 6, 1, 60, len(soa)) + soa
    else:
        answer = struct.pack("!HHHHHH", *struct.unpack("!H", m[:2]), 0x8180, 1, 1, 0, 0) + question + b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton("203.0.113.7")
    s.sendto(answer, peer)
"""


@pytest.fixture(scope="module")
def names(cluster):
    """A namespace with a headless service over two pods with host names, one without, and one that is never ready."""
    publish_shell(cluster)
    cluster.kubectl("create", "namespace", "names")
    db = {"app": "db"}
    port = {"name": "main", "ports": [{"name": "sql", "containerPort": 5432}]}
    apply(cluster,
          {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
           "spec": {"clusterIP": "None", "selector": db, "ports": [{"name": "sql", "port": 5432, "targetPort": "sql"}]}},
          {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "all"},
           "spec": {"clusterIP": "None", "selector": db, "publishNotReadyAddresses": True, "ports": [{"name": "sql", "port": 5432}]}},
          {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
           "spec": {"selector": db, "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}},
          *[shell_pod(f"db-{i}", "sleep 100000", labels=db, hostname=f"db-{i}", subdomain="db", container=port) for i in range(2)],
          shell_pod("plain", "sleep 100000", labels=db, container=port),
          shell_pod("unready", "sleep 100000", labels=db, hostname="unready", subdomain="db",
                    container={**port, "readinessProbe": {"exec": {"command": ["false"]}}}),
          namespace="names")
    pods = wait_ready(cluster, "db-0", "db-1", "plain", namespace="names")
    eventually(lambda: len(endpoint_addresses(cluster, "db", "names")) >= 3)
    yield pods
    cluster.kubectl("delete", "namespace", "names", "--wait=false")


def dig(pod, name, kind="A", *options):
    return sorted(in_pod_network(pod, "dig", f"@{DNS}", "+short", "+tries=1", *options, name, kind, check=False).stdout.split("\n")[:-1])


def header(pod, name, kind="A", *options):
    return in_pod_network(pod, "dig", f"@{DNS}", "+tries=1", *options, name, kind, check=False).stdout


def ip(pod):
    return pod["status"]["podIP"]


def reverse(address):
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def test_services_as_the_specification_says(cluster, names):
    pod = names[0]
    address = cluster.get("service", "web", "-n", "names")["spec"]["clusterIP"]
    web = "web.names.svc.cluster.local"
    eventually(lambda: dig(pod, web) == [address])
    assert dig(pod, "WeB.Names.svc.CLUSTER.local") == [address]
    assert dig(pod, web, "AAAA") == [] and "status: NOERROR" in header(pod, web, "AAAA")
    assert dig(pod, f"_http._tcp.{web}", "SRV") == [f"0 100 80 {web}."]
    assert dig(pod, f"_dns._udp.{web}", "SRV") == [f"0 100 53 {web}."]
    assert dig(pod, reverse(address), "PTR") == [web + "."]
    assert dig(pod, "dns-version.cluster.local", "TXT") == ['"1.1.0"']
    assert "status: NXDOMAIN" in header(pod, f"_http._udp.{web}", "SRV")
    missing = header(pod, "nothing.names.svc.cluster.local")
    assert "status: NXDOMAIN" in missing and "SOA" in missing


def test_headless_services_name_their_ready_pods(cluster, names):
    pod, db = names[0], "db.names.svc.cluster.local"
    eventually(lambda: dig(pod, db) == sorted(ip(p) for p in names))
    assert dig(pod, f"db-1.{db}") == [ip(names[1])]
    plain = ip(names[2]).replace(".", "-")
    assert dig(pod, f"{plain}.{db}") == [ip(names[2])]
    assert dig(pod, f"_sql._tcp.{db}", "SRV") == sorted(f"0 100 5432 {h}.{db}." for h in ("db-0", "db-1", plain))
    assert dig(pod, reverse(ip(names[0])), "PTR") == [f"db-0.{db}."]
    assert dig(pod, f"unready.{db}") == []
    unready = cluster.get("pod", "unready", "-n", "names")
    eventually(lambda: ip(unready) in dig(pod, "all.names.svc.cluster.local"))
    assert dig(pod, f"{plain}.names.pod.cluster.local") == [ip(names[2])]
    eventually(lambda: "status: NXDOMAIN" in header(pod, f"{plain}.no-such-namespace.pod.cluster.local"))
    assert in_pod(names[0], "hostname", "-f").stdout.strip() == f"db-0.{db}"


def test_transports_sizes_and_extensions(names):
    pod, name = names[0], "db.names.svc.cluster.local"
    assert len(dig(pod, name, "A", "+tcp")) == 3
    assert "udp: 1232" in header(pod, name, "A", "+bufsize=4096")
    assert "status: BADVERS" in header(pod, name, "A", "+edns=1", "+noednsneg")
    assert "status: REFUSED" in header(pod, name, "A", "-c", "CH")
    assert "Db.NAMES.svc.cluster.LOCAL." in header(pod, "Db.NAMES.svc.cluster.LOCAL").split("ANSWER SECTION")[1]


def test_names_elsewhere_are_aliases_even_when_they_lead_in_a_circle(cluster, names):
    elsewhere = {"outer": "web.names.svc.cluster.local", "there": "back.names.svc.cluster.local", "back": "there.names.svc.cluster.local", "own": "own.names.svc.cluster.local"}
    apply(cluster, *[{"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": to}}
                     for name, to in elsewhere.items()], namespace="names")
    pod, web = names[0], cluster.get("service", "web", "-n", "names")["spec"]["clusterIP"]
    eventually(lambda: dig(pod, "outer.names.svc.cluster.local") == sorted([web, "web.names.svc.cluster.local."]))
    assert dig(pod, "outer.names.svc.cluster.local", "CNAME") == ["web.names.svc.cluster.local."]
    for name in ("there", "own"):
        eventually(lambda: dig(pod, f"{name}.names.svc.cluster.local", "CNAME") == [elsewhere[name] + "."])
        for _ in range(20):
            told = header(pod, f"{name}.names.svc.cluster.local", "A", "+time=2")
            assert "status: " in told and "connection timed out" not in told, told
    assert dig(pod, "web.names.svc.cluster.local") == [web]


def test_large_answers_are_cut_and_whole_by_tcp(cluster, names):
    many = [f"10.7.{n}.{m}" for n in range(4) for m in range(1, 26)]
    apply(cluster, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "many"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
          {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "many"}, "subsets": [{"addresses": [{"ip": ip} for ip in many], "ports": [{"port": 80}]}]}, namespace="names")
    pod, name = names[0], "many.names.svc.cluster.local"
    eventually(lambda: len(dig(pod, name, "A", "+tcp")) == 100)
    assert set(dig(pod, name, "A", "+tcp")) == set(many)
    for options in (("+noedns", "+ignore"), ("+bufsize=512", "+ignore"), ("+bufsize=4096", "+ignore")):
        told = header(pod, name, "A", *options)
        size = int(told.split("MSG SIZE  rcvd: ")[1].split()[0])
        assert " tc" in told.split("flags:")[1].split(";")[0] and size <= (1232 if "+bufsize=4096" in options else 512), told
    assert len(dig(pod, name)) == 100, "dig asks again by TCP"


def test_names_are_forwarded_as_the_config_map_says(cluster, names):
    machine = endpoint_addresses(cluster, "kubernetes", "default")[0]
    upstream = subprocess.Popen(cluster.net.inside([sys.executable, "-u", "-c", UPSTREAM, str(PORT)]), stdout=subprocess.PIPE, text=True)
    try:
        assert upstream.stdout.readline() == "ready\n"
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dhow-dns"},
                  "data": {"stubDomains": json.dumps({"corp.example": [f"{machine}:{PORT}"]})}}
        apply(cluster, config, namespace="kube-system")
        for pod in names:
            eventually(lambda: dig(pod, "git.corp.example") == ["203.0.113.7"])
        # On the first step of the search path, in one question.
        assert dig(names[0], "wiki.corp.example.names.svc.cluster.local")[-1:] == ["wiki.corp.example."]
        # Both what is and what is not are remembered.
        for _ in range(3):
            assert "status: NXDOMAIN" in header(names[0], "no-such.corp.example")
        # What is wrong is told, and what was right before goes on.
        config["data"]["stubDomains"] = '{"corp.example": ["dns.corp.example"]}'
        apply(cluster, config, namespace="kube-system")
        eventually(lambda: 'must be an IP address' in cluster.kubectl("-n", "kube-system", "get", "events", "--field-selector=reason=InvalidDNSConfig").stdout)
        assert dig(names[0], "git.corp.example") == ["203.0.113.7"]
        cluster.kubectl("-n", "kube-system", "delete", "configmap", "dhow-dns")
        eventually(lambda: dig(names[0], "other.corp.example") == [])
    finally:
        upstream.kill()
        asked = upstream.communicate()[0].split()
    assert asked.count("no-such.corp.example") == 1
    assert asked.count("wiki.corp.example") == 1


def test_questions_are_not_tracked(cluster, names):
    pod = names[0]
    node = ["nsenter", f"--net=/run/dhow/{cluster.name}/{pod['spec']['nodeName']}.netns", "--"]
    for _ in range(3):
        assert dig(pod, "web.names.svc.cluster.local")
    assert in_pod(pod, "nslookup", "web.names.svc.cluster.local").returncode == 0
    tracked = run([*node, "cat", "/proc/net/nf_conntrack"]).stdout
    assert "dport=443 " in tracked or "dport=6443 " in tracked, "what is tracked is shown"
    assert not [line for line in tracked.splitlines() if "udp" in line and f"dst={DNS} " in line and "dport=53 " in line]


def test_pods_have_the_resolver_that_they_ask_for(cluster, names):
    config = {"nameservers": ["192.0.2.53"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}
    show = "cat /etc/resolv.conf /etc/hosts; hostname; sleep 100000"
    pods = {"first": dict(dnsConfig=config), "default": dict(dnsPolicy="Default"), "none": dict(dnsPolicy="None", dnsConfig=config), "host": dict(hostNetwork=True),
            "both": dict(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
            "fqdn": dict(hostname="one", subdomain="db", setHostnameAsFQDN=True, hostAliases=[{"ip": "192.0.2.9", "hostnames": ["foo", "bar"]}])}
    apply(cluster, *[shell_pod(name, show, **spec) for name, spec in pods.items()], namespace="names")
    wait_ready(cluster, *pods, namespace="names")
    seen = {name: eventually(lambda: cluster.kubectl("-n", "names", "logs", name).stdout).splitlines() for name in pods}
    search = "search names.svc.cluster.local svc.cluster.local cluster.local"
    assert seen["first"][0].startswith(search) and seen["first"][0].endswith(" a.example")
    assert seen["first"][1:4] == [f"nameserver {DNS}", "nameserver 192.0.2.53", "options ndots:2 edns0"]
    assert seen["none"][:3] == ["search a.example", "nameserver 192.0.2.53", "options ndots:2 edns0"]
    for name in ("host", "default"):
        assert f"nameserver {DNS}" not in seen[name] and "cluster.local" not in seen[name][0]
    assert seen["both"][0].startswith(search) and f"nameserver {DNS}" in seen["both"]
    assert "192.0.2.9\tfoo\tbar" in seen["fqdn"] and seen["fqdn"][-1] == "one.db.names.svc.cluster.local"
    bad = shell_pod("bad", "true", dnsPolicy="None")
    told = cluster.kubectl("-n", "names", "apply", "-f", "-", input=json.dumps(bad), check=False)
    assert "must provide at least one DNS nameserver when `dnsPolicy` is None" in told.stderr
