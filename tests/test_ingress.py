"""Ingress on HAProxy, asked with curl from outside: where requests go, TLS, annotations, and that nothing is lost while pods
and certificates change, HAProxy is killed and agents restart."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

from edge import EdgeWorld, edge_world
from harness import PATIENCE, eventually, run
from pods import apply, role_process

NGINX, APPGW = "nginx.ingress.kubernetes.io/", "appgw.ingress.kubernetes.io/"


def path(to, value="/", kind="Prefix"):
    return {"path": value, "pathType": kind, "backend": {"service": {"name": to, "port": {"number": 80}}}}


def ingress(name, rules, annotations=None, **spec):
    """`rules`: host to paths."""
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"rules": [{**({"host": host} if host else {}), "http": {"paths": paths}} for host, paths in rules.items()], **spec}}


class World(EdgeWorld):
    def __init__(self, cluster, folder):
        super().__init__(cluster, folder)
        apply(cluster, ingress("first", {"first.test": [path("red")]}))
        self.address = eventually(self.find_address)
        eventually(lambda: self.get("first.test")["name"] == "red")

    def find_address(self):
        status = self.cluster.get("ingress", "first")["status"]["loadBalancer"].get("ingress")
        return status and status[0]["ip"]

    def processes(self):
        """This cluster's HAProxy processes: (node, process id, whether it is a worker)."""
        found = set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as f:
                    line = f.read().split("\0")
                with open(f"/proc/{pid}/stat") as f:
                    parent = f.read().rsplit(")", 1)[1].split()[1]
                with open(f"/proc/{parent}/cmdline") as f:
                    above = f.read()
            except OSError:
                continue
            config = next((word for word in line if word.endswith("/haproxy.cfg")), "")
            node = re.search(rf"{self.cluster.name}-node-\d+", config)
            if node:
                found.add((node.group(), int(pid), "haproxy.cfg" in above))
        return found

    def is_filter(self, pid):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                line = f.read()
        except OSError:
            return False
        return "edge-filter" in line and f"/{self.cluster.name}-node-" in line

    def proxies(self):
        """Process ids of the masters, by node."""
        return {node: pid for node, pid, worker in self.processes() if not worker}

    def workers(self):
        """A reload starts new ones."""
        return {pid for _, pid, worker in self.processes() if worker}


world = edge_world(World)


def test_ingresses_are_shown_defaulted_and_checked(world):
    cluster = world.cluster
    assert re.search(r"dhow\s+dhow.io/ingress\s+<none>", cluster.kubectl("get", "ingressclass").stdout)
    lines = cluster.kubectl("get", "ing", "first").stdout.split("\n")
    assert lines[0].split() == ["NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"]
    assert lines[1].split()[:5] == ["first", "dhow", "first.test", world.address, "80"]
    assert "pathType" in cluster.kubectl("explain", "ingress.spec.rules.http.paths").stdout
    wrong = ingress("wrong", {"10.0.0.1": [path("red", "x", "Exact")]})
    told = cluster.kubectl("apply", "-f", "-", input=json.dumps(wrong), check=False).stderr
    assert 'The Ingress "wrong" is invalid' in told
    assert 'spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address' in told
    assert 'spec.rules[0].http.paths[0].path: Invalid value: "x": must be an absolute path' in told
    described = cluster.kubectl("describe", "ingress", "first").stdout
    assert "red:80 (10." in described and f"Address:          {world.address}" in described
    condition = [c for c in cluster.get("node", f"{cluster.name}-node-1")["status"]["conditions"] if c["type"] == "dhow.io/ServesIngress"]
    assert condition[0]["status"] == "True"
    grant = {"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": {"name": "g"},
             "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "a"}], "to": [{"group": "", "kind": "Secret"}]}}
    world.apply(grant)
    assert cluster.get("referencegrants.v1.gateway.networking.k8s.io", "g")["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert cluster.get("referencegrants.v1beta1.gateway.networking.k8s.io", "g")["apiVersion"] == "gateway.networking.k8s.io/v1beta1"


def test_the_longest_path_of_the_best_host_has_a_request(world):
    world.apply(ingress("routes", {"shop.test": [path("red"), path("blue", "/foo"), path("green", "/foo", "Exact"), path("nobody", "/empty")],
                                   "*.wild.test": [path("blue")]}),
                ingress("rest", {"own.test": [path("green", "/only")]}, defaultBackend={"service": {"name": "red", "port": {"number": 80}}}))
    world.serves("shop.test", "red")
    world.serves("own.test", "green", "/only/x")
    for host, asked, name in (("shop.test", "/foo", "green"), ("shop.test", "/foo/", "blue"), ("shop.test", "/foo/bar?a=b", "blue"),
                              ("shop.test", "/foobar", "red"), ("SHOP.test", "/", "red"), ("a.wild.test", "/x", "blue"), ("own.test", "/other", "red"),
                              ("nowhere.test", "/", "red")):
        assert world.get(host, asked)["name"] == name, (host, asked)
    answer = world.get("shop.test", "/foo/bar?a=b", "-H", "X-Forwarded-For: 1.2.3.4", "-H", "X-Real-IP: 1.2.3.4")
    assert answer["path"] == "/foo/bar?a=b"
    headers = answer["headers"]
    assert headers["host"] == "shop.test" and headers["x-forwarded-proto"] == "http" and headers["x-forwarded-host"] == "shop.test"
    assert headers["x-forwarded-for"] == headers["x-real-ip"] != "1.2.3.4" and headers["x-request-id"]
    assert world.status("http://shop.test/empty") == 503
    world.cluster.kubectl("delete", "ingress", "rest")
    eventually(lambda: world.status("http://nowhere.test/") == 404)
    eventually(lambda: world.curl("http://a.b.wild.test/")[2] == "default backend - 404")
    # The older one keeps what it has (within a second, the first by name), the younger one is told.
    world.apply(ingress("younger", {"shop.test": [path("blue")], "late.test": [path("blue")]}))
    world.serves("late.test", "blue")
    assert world.get("shop.test")["name"] == "red"
    eventually(lambda: 'served by the older Ingress "default/routes"' in world.cluster.kubectl("describe", "ingress", "younger").stdout)


def test_certificates_are_chosen_by_name_and_change_without_a_reload(world):
    cluster = world.cluster
    for name in ("one", "two"):
        base = world.certificate("tls.test", name)
        if name == "one":
            cluster.kubectl("create", "secret", "tls", "tls", f"--cert={base}.crt", f"--key={base}.key")
    world.apply(ingress("tls", {"tls.test": [path("red")], "open.test": [path("blue")]},
                        tls=[{"hosts": ["tls.test"], "secretName": "tls"}, {"hosts": ["missing.test"], "secretName": "missing"}]))

    def crt(name):
        with open(os.path.join(world.folder, name + ".crt")) as f:
            return f.read().strip()
    eventually(lambda: world.served_certificate("tls.test") == crt("one"))
    world.serves("tls.test", "red", scheme="https")
    assert "BEGIN" in world.served_certificate("other.test") != crt("one")
    answer = world.get("tls.test", "/", scheme="https")
    assert answer["name"] == "red" and answer["headers"]["x-forwarded-proto"] == "https"
    done = run(cluster.net.inside(["curl", "-sk", "-o", "/dev/null", "-w", "%{http_version}", "--resolve", f"tls.test:443:{world.address}", "https://tls.test/"]))
    assert done.stdout == "2"
    status, headers, _ = world.curl("http://tls.test/a?b=c")
    assert status == 308 and headers["location"] == "https://tls.test/a?b=c"
    assert world.get("open.test")["name"] == "blue"
    eventually(lambda: "SecretMissing" in cluster.kubectl("describe", "ingress", "tls").stdout)
    # Each node has taken all this in, so that no reload is under way.
    for node in json.loads(cluster.kubectl("get", "nodes", "-o", "json").stdout)["items"]:
        own = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        eventually(lambda own=own: world.served_certificate("tls.test", own) == crt("one"))
        eventually(lambda own=own: run(cluster.net.inside(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: open.test", f"http://{own}/"])).stdout == "200")
    workers = world.workers()
    assert workers
    base = os.path.join(world.folder, "two")
    fresh = cluster.kubectl("create", "secret", "tls", "tls", f"--cert={base}.crt", f"--key={base}.key", "--dry-run=client", "-o", "json").stdout
    cluster.kubectl("replace", "-f", "-", input=fresh)
    eventually(lambda: world.served_certificate("tls.test") == crt("two"))
    assert world.workers() <= workers  # a reload starts another one


def test_annotations_of_ingress_nginx(world):
    cluster = world.cluster
    hashes = {kind: run(["openssl", "passwd", "-" + kind, "secret"]).stdout for kind in ("apr1", "6")}
    users = f"ann:{hashes['apr1']}bob:{hashes['6']}cat:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\neve:secret\n"
    cluster.kubectl("create", "secret", "generic", "users", f"--from-literal=auth={users}")
    one = lambda name, annotations, *paths: ingress(name, {f"{name}.test": list(paths) or [path("red")]}, {NGINX + k: v for k, v in annotations.items()})
    world.apply(
        one("rewrite", {"rewrite-target": "/$2", "use-regex": "true"}, path("red", "/api(/|$)(.*)", "ImplementationSpecific")),
        one("moved", {"permanent-redirect": "https://elsewhere.test/x%20y"}),
        one("root", {"app-root": "/app"}),
        one("login", {"auth-type": "basic", "auth-secret": "users", "auth-realm": "it's me"}),
        one("locked", {"auth-type": "basic", "auth-secret": "nothing"}),
        one("inside", {"whitelist-source-range": "192.0.2.0/24"}),
        one("outside", {"denylist-source-range": "192.0.2.0/24"}),
        one("small", {"proxy-body-size": "1k"}),
        one("sticky", {"affinity": "cookie", "session-cookie-name": "STICK", "session-cookie-samesite": "Lax", "session-cookie-max-age": "60"}),
        one("cors", {"enable-cors": "true", "cors-allow-origin": "https://a.test, https://*.b.test"}),
        one("vhost", {"upstream-vhost": "inner.test", "server-alias": "other-vhost.test"}),
        one("slow", {"limit-rps": "1"}),
        one("odd", {"backend-protocol": "SMTP", "mirror-target": "https://x", "proxy-read-timeout": "ten"}),
        ingress("broken", {"broken.test": [path("red", "/a[(", "ImplementationSpecific"), path("blue", "/b")]}, {NGINX + "use-regex": "true"}),
        one("main", {}),
        ingress("canary", {"main.test": [path("blue")]}, {NGINX + "canary": "true", NGINX + "canary-weight": "30", NGINX + "canary-by-header": "x-canary"}),
        ingress("gateway", {"gateway.test": [path("red", "/shop/")]}, {APPGW + "backend-path-prefix": "/v2/", APPGW + "cookie-based-affinity": "true"}))
    world.serves("gateway.test", "red", "/shop/x")
    assert world.get("rewrite.test", "/api/v1/x?y=z")["path"] == "/v1/x?y=z"
    assert world.get("rewrite.test", "/api")["path"] == "/"
    assert world.status("http://rewrite.test/apix") == 404
    status, headers, _ = world.curl("http://moved.test/")
    assert status == 301 and headers["location"] == "https://elsewhere.test/x%20y"
    status, headers, _ = world.curl("http://root.test/")
    assert status == 302 and headers["location"] == "/app" and world.get("root.test", "/app")["name"] == "red"
    status, headers, _ = world.curl("http://login.test/")
    assert status == 401 and headers["www-authenticate"] == "Basic realm=\"it's me\""
    for user in ("ann", "bob", "cat"):
        assert world.get("login.test", "/", "-u", f"{user}:secret")["name"] == "red" and world.status("http://login.test/", "-u", f"{user}:wrong") == 401
    assert world.status("http://login.test/", "-u", "eve:secret") == 401
    eventually(lambda: 'the user "eve" is left out' in cluster.kubectl("describe", "ingress", "login").stdout)
    assert world.status("http://locked.test/") == 503
    assert world.status("http://inside.test/") == 403 and world.get("outside.test")["name"] == "red"
    assert world.status("http://small.test/", "--data", "x" * 100) == 200 and world.status("http://small.test/", "--data", "x" * 2000) == 413
    cookie = world.curl("http://sticky.test/")[1]["set-cookie"]
    assert re.fullmatch(r"STICK=\w+\.[0-9a-f-]{36}; path=/; HttpOnly; Max-Age=60; SameSite=Lax", cookie), cookie
    assert "set-cookie" not in world.curl("http://sticky.test/", "-b", cookie.split(";")[0])[1]
    status, headers, _ = world.curl("http://cors.test/", "-X", "OPTIONS", "-H", "Origin: https://x.b.test")
    assert status == 204 and headers["access-control-allow-origin"] == "https://x.b.test" and "POST" in headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in world.curl("http://cors.test/", "-H", "Origin: https://evil.test")[1]
    assert world.get("other-vhost.test")["headers"]["host"] == "inner.test"
    assert {world.status("http://slow.test/") for _ in range(60)} == {200, 503}
    assert world.get("odd.test")["name"] == "red" and world.get("broken.test", "/b")["name"] == "blue"
    told = eventually(lambda: (lambda text: text.count("AnnotationInvalid") >= 3 and text)(cluster.kubectl("describe", "ingress", "odd").stdout))
    assert '"SMTP" is not one of HTTP' in told and "mirror-target is not used: copies go to http://<service of this namespace>" in told
    eventually(lambda: "no regular expression" in cluster.kubectl("describe", "ingress", "broken").stdout)
    assert world.get("main.test", "/", "-H", "X-Canary: always")["name"] == "blue" and world.get("main.test", "/", "-H", "X-Canary: never")["name"] == "red"
    names = [world.get("main.test")["name"] for _ in range(60)]
    assert 5 < names.count("blue") < 35, names
    answer = world.get("gateway.test", "/shop/cart")
    assert answer["path"] == "/v2/cart" and "ApplicationGatewayAffinity=" in answer["answer"]["set-cookie"]


def errors_have_another_backend(world):
    eventually(lambda: 'custom-http-errors is not used: "x" is no status' in world.cluster.kubectl("describe", "ingress", "errors").stdout)
    world.serves("errors.test", "red", "/status/200")
    for node in world.nodes():
        eventually(lambda node=node: world.get("errors.test", "/status/404", node=(node, 80))["name"] == "blue")
    answer = world.get("errors.test", "/status/404?a=b", "-H", "Accept: text/html", "-H", "X-Request-ID: lost")
    assert (answer["status"], answer["name"], answer["path"]) == (200, "blue", "/") and answer["answer"]["content-type"] == "application/json"
    told = {"x-code": "404", "x-format": "text/html", "x-original-uri": "/status/404?a=b", "x-namespace": "default", "x-ingress-name": "errors",
            "x-service-name": "red", "x-service-port": "80", "x-request-id": "lost", "host": "errors.test"}
    assert {name: answer["headers"].get(name) for name in told} == told
    assert world.get("errors.test", "/status/502", "--data", "x=y")["headers"]["x-code"] == "502" and world.get("errors.test", "/status/500")["name"] == "red"
    # While no pod is there the other backend has the request as it is; nothing is reloaded when one comes or goes.
    workers = world.workers()
    for selector, name in (("nobody", "blue"), ("green", "green"), ("nobody", "blue")):
        world.cluster.kubectl("patch", "service", "nobody", "-p", json.dumps({"spec": {"selector": {"app": selector}}}))
        world.serves("errors.test", name, "/empty/x")
    answer = world.get("errors.test", "/empty/x", "--data", "whole")
    assert answer["path"] == "/empty/x" and answer["headers"]["x-code"] == "503" and answer["headers"]["x-service-name"] == "nobody"
    assert world.workers() == workers
    world.cluster.kubectl("delete", "ingress", "errors")


def test_requests_are_logged_and_counted_and_errors_have_pages(world):
    cluster = world.cluster
    cluster.kubectl("create", "configmap", "pages", "--from-literal=503.html=<p>back soon</p>", "--from-literal=404=nothing here", "--from-literal=500.json={}",
                    "--from-literal=nonsense=x")
    world.apply(ingress("pages", {"pages.test": [path("red", "/status"), path("nobody", "/empty")]}, {"dhow.io/error-pages": "pages"}),
                ingress("errors", {"errors.test": [path("red", "/status"), path("nobody", "/empty")]}, {NGINX + "custom-http-errors": "404,502,x", NGINX + "default-backend": "blue"}),
                ingress("quiet", {"quiet.test": [path("red")]}, {NGINX + "enable-access-log": "false"}))
    world.serves("pages.test", "red", "/status/200")
    world.serves("quiet.test", "red")
    for asked, code, kind, text in (("/empty", 503, "text/html", "<p>back soon</p>"), ("/other", 404, "text/html", "nothing here"),
                                    ("/status/404", 404, "text/html", "nothing here"), ("/status/500", 500, "application/json", "{}")):
        status, headers, body = world.curl("http://pages.test" + asked)
        assert (status, headers["content-type"].split(";")[0], body) == (code, kind, text), asked
    assert world.get("pages.test", "/status/502")["name"] == "red"
    eventually(lambda: "ErrorPageInvalid" in cluster.kubectl("describe", "ingress", "pages").stdout)
    errors_have_another_backend(world)
    cluster.kubectl("create", "configmap", "pages", "--from-literal=404=moved away", "--dry-run=client", "-o", "json")
    cluster.kubectl("patch", "configmap", "pages", "-p", '{"data":{"404":"moved away"}}')
    eventually(lambda: world.curl("http://pages.test/other")[2] == "moved away")
    # The log: a line each, whatever the client sends.
    agent = 'curl "},{\\ä'
    world.curl("http://quiet.test/", "-H", "X-Request-ID: quiet")
    world.curl("http://pages.test/status/404?a=%22b", "-H", "X-Request-ID: loud", "-A", agent, "-e", "http://from.test/", "--data", "12345")
    line, = eventually(lambda: world.access_log(request_id="loud"))
    assert {k: line[k] for k in ("method", "host", "path", "protocol", "status", "route", "namespace", "service", "user_agent", "referer", "tls")} == {
        "method": "POST", "host": "pages.test", "path": "/status/404?a=%22b", "protocol": "HTTP/1.1", "status": 404, "route": "Ingress/default/pages",
        "namespace": "default", "service": "red", "user_agent": agent, "referer": "http://from.test/", "tls": "-"}
    pod = cluster.get("pod", "red")["status"]["podIP"]
    assert line["server"] == f"{pod}:8080" and line["bytes_in"] > 5 and line["duration_ms"] >= 0 and line["client"]
    world.curl("http://nowhere.test/", "-H", "X-Request-ID: nowhere")
    line, = eventually(lambda: world.access_log(request_id="nowhere"))
    assert line["status"] == 404 and line["service"] == "-" and not world.access_log(host="quiet.test", service="red")
    # Counts, where nodes tell theirs; a reload begins anew.
    def counted():
        world.curl("http://pages.test/status/404")
        told = "\n".join(cluster.kubectl("get", "--raw", f"/api/v1/nodes/{cluster.name}-node-{i}/proxy/metrics").stdout for i in (1, 2))
        answers = re.findall(r'haproxy_backend_http_responses_total{namespace="default",service="red",port="80",proxy="[^"]*",code="4xx"} (\d+)', told)
        return sum(map(int, answers)) >= 1 and told

    metrics = eventually(counted)
    assert f'server="{pod}:8080",pod="red"' in metrics and world.status("http://nowhere.test/metrics") == 404


ATTACKS = (("GET", "/?id=1%27%20OR%20%271%27=%271", None, "942100"), ("POST", "/", "id=1' UNION SELECT password FROM users--", "942190"),
           ("GET", "/?q=%3Cscript%3Ealert(1)%3C/script%3E", None, "941100"), ("GET", "/?file=../../../../etc/passwd", None, "930100"))


def test_attacks_are_refused_or_told_and_requests_are_copied(world):
    cluster = world.cluster
    crs = {NGINX + "enable-modsecurity": "true", NGINX + "enable-owasp-core-rules": "true"}
    world.apply(ingress("guarded", {"guarded.test": [path("red")]}, {"dhow.io/waf": "prevent"}), ingress("watched", {"watched.test": [path("red")]}, crs),
                ingress("excepted", {"excepted.test": [path("red")]}, {**crs, NGINX + "modsecurity-snippet": "SecRuleEngine On\nSecRuleRemoveById 942000-942999"}),
                ingress("script", {"script.test": [path("red")]}, {"dhow.io/waf": "prevent", NGINX + "modsecurity-snippet": "Include /etc/shadow"}),
                ingress("copied", {"copied.test": [path("red", "/in")]}, {NGINX + "mirror-target": "http://green.default.svc.cluster.local/copy$request_uri"}))
    for host in ("guarded", "watched", "excepted", "copied"):
        world.serves(host + ".test", "red", "/in")
    for i, (method, asked, body, rule) in enumerate(ATTACKS):
        args = ("-X", method, *(("--data", body) if body else ()))
        assert world.status("http://guarded.test" + asked, *args, "-H", f"X-Request-ID: attack-{i}") == 403, asked
        assert world.get("watched.test", asked, *args, "-H", f"X-Request-ID: seen-{i}")["name"] == "red"
        for name, status in ((f"attack-{i}", 403), (f"seen-{i}", 200)):
            line, = eventually(lambda name=name: world.access_log(request_id=name))
            assert line["status"] == status and rule in line["waf"].split(",")
        finding, = eventually(lambda i=i: world.access_log("waf", request_id=f"attack-{i}"))
        assert finding["blocked"] and finding["host"] == "guarded.test" and rule in [match["rule"] for match in finding["matches"]]
    assert world.get("guarded.test", "/shop?item=12&q=blue%20shoes", "--data", "name=Ann")["name"] == "red"
    assert world.get("excepted.test", ATTACKS[0][1])["name"] == "red" and world.status("http://excepted.test" + ATTACKS[2][1]) == 403
    assert world.status("http://guarded.test/", "--data", "x" * 70000) == 413 and world.get("watched.test", "/", "--data", "x" * 120000)["name"] == "red"
    # What asks for protection that is not understood is closed.
    assert world.status("http://script.test/") == 503
    eventually(lambda: "is not served; SecRuleEngine" in cluster.kubectl("describe", "ingress", "script").stdout)
    # The copy, and that nobody waits for it.
    assert world.get("copied.test", "/in/x?y=1", "--data", "a=b")["name"] == "red"
    world.apply(ingress("green", {"green.test": [path("green")]}))
    world.serves("green.test", "green")
    assert eventually(lambda: ["POST", "/copy/in/x?y=1", "a=b"] in world.get("green.test", "/asked")["asked"])
    # A filter that dies comes back; a route that prevents answers 503 meanwhile, and never lets an attack pass; one with users nobody without his password.
    pids = {pid for pid in filter(str.isdigit, os.listdir("/proc")) if world.is_filter(pid)}
    assert len(pids) == 2
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    seen, guessed = set(), set()

    def back():
        seen.add(world.status("http://guarded.test" + ATTACKS[0][1]))
        guessed.add(world.status("http://login.test/", "-u", "ann:wrong"))
        return len([pid for pid in filter(str.isdigit, os.listdir("/proc")) if world.is_filter(pid) and pid not in pids]) == 2
    eventually(back)
    for node in world.nodes():
        eventually(lambda node=node: world.status("http://guarded.test/", node=(node, 80)) == 200)
        eventually(lambda node=node: world.status("http://login.test/", "-u", "ann:secret", node=(node, 80)) == 200)
    assert guessed <= {401, 503} and seen <= {403, 503} and world.status("http://guarded.test" + ATTACKS[0][1]) == 403
    world.cluster.kubectl("delete", "ingress", "guarded", "watched", "excepted", "script", "copied", "green", "login")
    eventually(lambda: not [pid for pid in filter(str.isdigit, os.listdir("/proc")) if world.is_filter(pid)])


# Opens connections that say little: as many as are wanted never end their head. Prints what each is told in the end.
SLOW = """
import socket, sys, time
address, count = sys.argv[1], int(sys.argv[2])
all = [socket.create_connection((address, 80), 5) for _ in range(count)]
for s in all: s.sendall(b"GET / HTTP/1.1\\r\\nHost: first.test\\r\\n")
print("open", flush=True)
end = time.time() + 25
for s in all:
    s.settimeout(max(0.1, end - time.time()))
    try: print(s.recv(4096).split(b"\\r\\n")[0].decode(), flush=True)
    except OSError as e: print(repr(e), flush=True)
"""


def test_clients_and_backends_are_held_to_what_was_agreed(world):
    cluster = world.cluster
    slow = subprocess.Popen(cluster.net.inside([sys.executable, "-c", SLOW, world.address, "200"]), stdout=subprocess.PIPE, text=True)
    assert slow.stdout.readline() == "open\n"
    base = world.start_layers("green", "inner")
    world.certificate("other.test", "other")
    pem = lambda name, end: os.path.join(world.folder, f"{name}.{end}")
    for name in ("inner", "other"):
        cluster.kubectl("create", "secret", "generic", name + "-ca", f"--from-file=ca.crt={pem(name, 'crt')}", f"--from-file=tls.crt={pem(name, 'crt')}",
                        f"--from-file=tls.key={pem(name, 'key')}")
    cluster.kubectl("create", "secret", "tls", "mine", f"--cert={base}.crt", f"--key={base}.key")
    to = lambda port: [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "layers", "port": {"number": port}}}}]
    one = lambda name, port, **annotations: ingress(name, {f"{name}.test": to(port) if port else [path("red")]}, {NGINX + k.replace("_", "-"): v for k, v in annotations.items()})
    verified = {"backend_protocol": "HTTPS", "proxy_ssl_verify": "on", "proxy_ssl_name": "inner.test"}
    clients = one("clients", 0, auth_tls_secret="inner-ca", auth_tls_pass_certificate_to_upstream="true")
    clients["spec"]["tls"] = [{"hosts": ["clients.test"], "secretName": "mine"}]
    world.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "layers"}, "spec": {"selector": {"app": "green"}, "ports": [
                    {"name": f"p{port}", "port": port} for port in (8443, 50051)]}},
                one("grpc", 50051, backend_protocol="GRPC"), one("plain", 8443, backend_protocol="HTTPS"),
                one("verified", 8443, **verified, proxy_ssl_secret="inner-ca"), one("distrusted", 8443, **verified, proxy_ssl_secret="other-ca"),
                one("unverified", 8443, backend_protocol="HTTPS", proxy_ssl_verify="on"), clients, one("few", 0, limit_connections="3"))
    world.serves("grpc.test", "grpc", "/shop.Cart/Add", "--http2-prior-knowledge")
    answer = json.loads(world.curl("http://grpc.test/shop.Cart/Add", "--http2-prior-knowledge", "-X", "POST")[2])
    assert answer["version"] == "HTTP/2.0" and answer["path"] == "/shop.Cart/Add"
    world.serves("verified.test", "tls")
    assert json.loads(world.curl("http://verified.test/")[2]) == {"name": "tls", "path": "/", "sni": "inner.test", "alpn": "h2", "shown": "1"}
    assert json.loads(world.curl("http://plain.test/")[2])["sni"] == "plain.test"
    assert world.status("http://distrusted.test/") == 503 and world.status("http://unverified.test/") == 503
    # Clients' certificates.
    shown = lambda name: ("--cert", pem(name, "crt"), "--key", pem(name, "key"))
    answer = eventually(lambda: (lambda one: one["name"] and one)(world.get("clients.test", "/", *shown("inner"), scheme="https")))
    assert answer["headers"]["ssl-client-verify"] == "SUCCESS" and "inner.test" in answer["headers"]["ssl-client-subject-dn"] and answer["headers"]["ssl-client-cert"]
    assert world.status("https://clients.test/") == 400 and world.status("https://clients.test/", *shown("other")) == 400
    # Connections of one client.
    hold = "import socket, sys\ns = [socket.create_connection((sys.argv[1], 80), 5) for _ in range(3)]\nfor one in s: one.sendall(b'GET /ws HTTP/1.1\\r\\nHost: few.test\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n'); print(one.recv(99)[9:12].decode(), flush=True)\nsys.stdin.read()"
    world.serves("few.test", "red")
    node = world.nodes()[0]
    holding = subprocess.Popen(cluster.net.inside([sys.executable, "-c", hold, node]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert [holding.stdout.readline() for _ in range(3)] == ["101\n"] * 3
        assert world.status("http://few.test/", node=(node, 80)) == 503 and world.status("http://first.test/", node=(node, 80)) == 200
    finally:
        holding.kill()
    assert eventually(lambda: world.status("http://few.test/", node=(node, 80)) == 200)
    # Heads that are too long, and clients that never end theirs, while others are served.
    assert world.status("http://first.test/", "-H", "X-Long: " + "x" * 100_000) in (400, 431)
    assert world.get("first.test")["name"] == "red"
    told = slow.communicate(timeout=30)[0].split("\n")[:-1]
    assert len(told) == 200 and all(" 408 " in line for line in told), told[:5]
    cluster.kubectl("delete", "ingress", "grpc", "plain", "verified", "distrusted", "unverified", "clients", "few")


# A connection of a load balancer that speaks for another.
PROXIED = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), 5)
s.sendall(b"PROXY TCP4 203.0.113.9 192.0.2.1 1234 80\\r\\nGET / HTTP/1.1\\r\\nHost: first.test\\r\\nConnection: close\\r\\n\\r\\n")
while data := s.recv(4096): sys.stdout.write(data.decode())
"""


def test_answers_are_compressed_requests_come_again_and_proxies_speak_for_clients(world):
    cluster = world.cluster
    world.start_layers("blue", "ahead")
    one = lambda name, annotations, *paths, **spec: ingress(name, {f"{name}.test": list(paths) or [path("red")]}, {k if "/" in k else NGINX + k: v for k, v in annotations.items()}, **spec)
    proxied = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "proxied", "port": {"number": 8090}}}}
    world.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "proxied"}, "spec": {"selector": {"app": "blue"}, "ports": [{"port": 8090}]}},
                one("zipped", {"dhow.io/compression": "true"}), one("again", {"proxy-next-upstream": "error http_503", "proxy-next-upstream-tries": "2"}),
                one("never", {"proxy-next-upstream": "off"}), one("told", {"dhow.io/proxy-protocol": "v2"}, proxied), one("told-one", {"dhow.io/proxy-protocol": "v1"}, proxied),
                one("brief", {"proxy-read-timeout": "1", "dhow.io/proxy-protocol": "v3"}), one("refused", {"denylist-source-range": "0.0.0.0/0,::/0"}),
                one("admitted", {"allowlist-source-range": "0.0.0.0/0,::/0"}), one("afar", {"denylist-source-range": "203.0.113.0/24"}), one("main-too", {}),
                ingress("canary-too", {"main-too.test": [path("blue")]}, {NGINX + "canary": "true", NGINX + "canary-by-cookie": "taste"}))
    world.serves("admitted.test", "red")
    # Compression: where it is asked for, by both.
    status, headers, body = world.curl("http://zipped.test/", "--compressed")
    assert (status, headers["content-encoding"], json.loads(body)["name"]) == (200, "gzip", "red") and "accept-encoding" in headers["vary"].lower()
    assert "content-encoding" not in world.curl("http://zipped.test/")[1] and "content-encoding" not in world.curl("http://first.test/", "--compressed")[1]
    # Again, when it is safe, and as often as it may.
    asked = lambda where: [each[0] for each in world.get("admitted.test", "/asked")["asked"] if each[1] == where]
    assert world.get("again.test", "/once/503/a")["status"] == 200 and asked("/once/503/a") == ["GET", "GET"]
    assert world.get("again.test", "/once/503/b", "-X", "POST")["status"] == 503 and asked("/once/503/b") == ["POST"]
    assert world.status("http://again.test/status/503") == 503 and asked("/status/503") == ["GET", "GET"]
    assert world.status("http://never.test/once/503/c") == 503 and asked("/once/503/c") == ["GET"]
    # Of those who are slow nobody else hears.
    begun = time.monotonic()
    assert world.status("http://brief.test/wait/4") == 504 and time.monotonic() - begun < 3
    assert eventually(lambda: '"v3" is neither v1 nor v2' in cluster.kubectl("describe", "ingress", "brief").stdout)
    assert world.status("http://refused.test/") == 403 and world.get("admitted.test")["name"] == "red"
    assert world.get("main-too.test", "/", "-b", "taste=always")["name"] == "blue" and world.get("main-too.test", "/", "-b", "taste=never")["name"] == "red"
    # PROXY protocol towards pods, and from those who may speak for clients.
    clients = {node: world.get("admitted.test", node=(node, 80))["headers"]["x-real-ip"] for node in world.nodes()}
    for host in ("told.test", "told-one.test"):
        for node, client in clients.items():
            answer = world.get(host, node=(node, 80))
            assert (answer["name"], answer["client"]) == ("proxied", client)
    spoken = lambda node: run(cluster.net.inside([sys.executable, "-c", PROXIED, node]), check=False).stdout
    assert " 400 " in spoken(world.nodes()[0]).split("\n")[0]
    for source, told in ((",".join(["192.0.2.0/24", *clients.values()]), "203.0.113.9"), ("nobody", None), (None, None)):
        cluster.kubectl("annotate", "ingressclass", "dhow", "--overwrite", "dhow.io/proxy-protocol-from" + (f"={source}" if source else "-"))
        for node in world.nodes():
            eventually(lambda node=node: (f'"x-forwarded-for": "{told}"' in spoken(node)) if told else world.status("http://first.test/", node=(node, 80)) == 200)
            if told:
                assert world.status("http://first.test/", node=(node, 80)) == 0, "without the header"
                assert world.get("first.test", "/", "--haproxy-protocol", scheme="https", node=(node, 443))["name"] == "red"
    eventually(lambda: 'proxy-protocol-from is not used: "nobody" is no range' in cluster.kubectl("get", "events").stdout)
    # The same by headers: the client is the one that the proxies name, for lists, pods and the log.
    said = ("-H", "X-Forwarded-For: 203.0.113.5", "-H", "X-Forwarded-Proto: https", "-H", "X-Request-ID: forwarded")
    assert world.get("afar.test", "/", *said)["headers"]["x-forwarded-proto"] == "http"
    cluster.kubectl("annotate", "ingressclass", "dhow", "dhow.io/forwarded-headers-from=" + ",".join(clients.values()))
    for node, client in clients.items():
        eventually(lambda node=node: world.status("http://afar.test/", *said, node=(node, 80)) == 403)
        headers = world.get("first.test", "/", *said, node=(node, 80))["headers"]
        assert (headers["x-forwarded-for"], headers["x-real-ip"], headers["x-forwarded-proto"]) == (f"203.0.113.5, {client}", "203.0.113.5", "https")
    eventually(lambda: len(world.access_log(request_id="forwarded", client="203.0.113.5", status=200)) == 2)
    cluster.kubectl("annotate", "ingressclass", "dhow", "dhow.io/forwarded-headers-from-")
    for node in world.nodes():
        eventually(lambda node=node: world.status("http://afar.test/", *said, node=(node, 80)) == 200)
    cluster.kubectl("delete", "ingress", "zipped", "again", "never", "told", "told-one", "brief", "refused", "admitted", "afar", "main-too", "canary-too")


def test_what_is_wrong_stops_no_other(world):
    """Classes of others, hosts that namespaces want both, certificates that are none, names that lead back, and backends that never answer."""
    cluster = world.cluster
    cluster.kubectl("create", "namespace", "rival")
    klass = lambda name, controller: {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}}
    named = lambda name, to, **more: {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, **more}, "spec": {"type": "ExternalName", "externalName": to}}
    base = world.certificate("torn.test", "torn")
    other = world.certificate("torn.test", "untorn")
    cluster.kubectl("create", "secret", "generic", "torn", "--type=kubernetes.io/tls", "--from-literal=tls.crt=nonsense", f"--from-file=tls.key={base}.key")
    cluster.kubectl("create", "secret", "generic", "swapped", "--type=kubernetes.io/tls", f"--from-file=tls.crt={base}.crt", f"--from-file=tls.key={other}.key")
    world.apply(klass("mine", "dhow.io/ingress"), klass("theirs", "example.test/other"),
                ingress("mine", {"mine.test": [path("blue")]}, ingressClassName="mine"), ingress("theirs", {"theirs.test": [path("blue")]}, ingressClassName="theirs"),
                ingress("unknown", {"unknown.test": [path("blue")]}, ingressClassName="none-such"),
                ingress("torn", {"torn.test": [path("red")], "swapped.test": [path("red")]}, tls=[{"hosts": [f"{name}.test"], "secretName": name} for name in ("torn", "swapped")]),
                named("here", "dhow-ingress.kube-system.svc.cluster.local"), named("there", "elsewhere.default.svc.cluster.local"), named("elsewhere", "there.default.svc.cluster.local"),
                named("address", "127.0.0.1"), named("outer", "red.default.svc.cluster.local"),
                {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "home"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
                {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "home"}, "subsets": [{"addresses": [{"ip": world.nodes()[0]}], "ports": [{"port": 80}]}]},
                named("itself", "home.default.svc.cluster.local"),
                *[ingress(name, {f"{name}.test": [path(name)]}) for name in ("here", "there", "address", "itself")])
    # A name of the cluster's own is a way to a service; its port is the pod's here, for the rule names it.
    outer = ingress("outer", {"outer.test": [path("outer")]})
    apply(cluster, ingress("first", {"first.test": [path("stolen"), path("own", "/own")], "rival.test": [path("own")]}),
          {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "own"}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]}},
          {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "own"}, "subsets": [{"addresses": [{"ip": world.pods["green"]["status"]["podIP"]}], "ports": [{"port": 8080}]}]},
          namespace="rival")
    world.apply(outer)
    world.serves("mine.test", "blue")
    world.serves("rival.test", "green")
    world.serves("outer.test", "red")
    # Both namespaces' paths of one host, and of one path the older's.
    assert world.get("first.test")["name"] == "red" and world.get("first.test", "/own")["name"] == "green"
    eventually(lambda: 'served by the older Ingress "default/first"' in cluster.kubectl("-n", "rival", "describe", "ingress", "first").stdout)
    for name in ("theirs", "unknown"):
        assert world.status(f"http://{name}.test/") == 404 and not cluster.get("ingress", name).get("status", {}).get("loadBalancer", {}).get("ingress")
    told = eventually(lambda: (lambda text: text.count("CertificateInvalid") == 2 and text)(cluster.kubectl("describe", "ingress", "torn").stdout))
    assert "stands in for it" in told and "BEGIN" in world.served_certificate("torn.test") and world.get("torn.test", scheme="https")["name"] == "red"
    # One request that leads back to where it came from is one more, and not thousands.
    assert world.status("http://here.test/") == 508 and len(eventually(lambda: world.access_log(host="here.test"))) <= 2
    assert world.status("http://there.test/") == 503 and world.status("http://address.test/") == 503
    # A name may not lead to the node itself, whose own services trust it; another node's edge sees that the request has been around.
    itself = lambda node: world.curl("http://itself.test/", node=(node, 80))
    eventually(lambda: itself(world.nodes()[0])[::2] == (503, "the name leads to the node itself"))
    eventually(lambda: itself(world.nodes()[1])[0] == 508)
    eventually(lambda: '"127.0.0.1" is an address' in cluster.kubectl("describe", "ingress", "address").stdout)
    # A flood of requests to what does not answer.
    flood = "import socket, sys\ns = [socket.create_connection((sys.argv[1], 80), 5) for _ in range(1000)]\nfor one in s: one.sendall(b'GET /wait/30 HTTP/1.1\\r\\nHost: first.test\\r\\n\\r\\n')\nprint('open', flush=True)\nsys.stdin.read()"
    flooding = subprocess.Popen(cluster.net.inside([sys.executable, "-c", flood, world.address]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert flooding.stdout.readline() == "open\n"
        for _ in range(20):
            begun = time.monotonic()
            assert world.get("rival.test")["name"] == "green" and time.monotonic() - begun < 2 * PATIENCE
    finally:
        flooding.kill()
    cluster.kubectl("delete", "ingress", "mine", "theirs", "unknown", "torn", "here", "there", "address", "itself", "outer")
    cluster.kubectl("delete", "ingressclass", "mine", "theirs")
    cluster.kubectl("delete", "namespace", "rival", "--wait=false")


class Traffic:
    """Requests one after the other from several threads, each over connections that it keeps; counts what was not 200."""
    CODE = """
import http.client, json, sys, threading
address, host, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
counts, failures, over = {}, [], threading.Event()
def work():
    connection = None
    while not over.is_set():
        try:
            connection = connection or http.client.HTTPConnection(address, 80, timeout=10)
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            counts[answer.status] = counts.get(answer.status, 0) + 1
            if answer.will_close: connection = connection.close()
        except Exception as error:
            failures.append(repr(error))
            connection = None
threads = [threading.Thread(target=work) for _ in range(workers)]
for t in threads: t.start()
sys.stdin.read()
over.set()
for t in threads: t.join()
print(json.dumps([counts, failures]))
"""

    def __init__(self, world, host, workers=4):
        self.process = subprocess.Popen(world.cluster.net.inside([sys.executable, "-c", self.CODE, world.address, host, str(workers)]),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self):
        counts, failures = json.loads(self.process.communicate(timeout=30)[0])
        return counts, failures


def test_no_request_is_lost_while_pods_routes_and_agents_change(world):
    cluster = world.cluster
    world.apply(ingress("hello", {"hello.test": [path("hello")]}))
    for node in world.nodes():  # one that has not heard of it yet would answer 404
        eventually(lambda node=node: "hello from pod" in world.curl("http://hello.test/", node=(node, 80))[2])
    traffic = Traffic(world, "hello.test")
    cluster.kubectl("rollout", "restart", "deployment/hello")
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=90s", timeout=100)
    cluster.kubectl("scale", "deployment/hello", "--replicas=2")
    # Other Ingresses come and go, with and without a new backend: reloads among them.
    for i in range(3):
        world.apply(ingress("passing", {f"passing{i}.test": [path(("red", "blue", "green")[i])]}, {NGINX + "proxy-read-timeout": str(10 + i)}))
        world.serves(f"passing{i}.test", ("red", "blue", "green")[i])
    agent = role_process(cluster, "agent", f"{cluster.name}-node-1")
    before = world.proxies()
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: role_process(cluster, "agent", f"{cluster.name}-node-1") != agent)
    cluster.kubectl("rollout", "restart", "deployment/hello")
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=90s", timeout=100)
    assert world.proxies() == before
    counts, failures = traffic.end()
    assert set(counts) == {"200"} and counts["200"] > 300 and not failures, (counts, failures[:5])


def test_websockets_stay_and_a_killed_proxy_comes_back(world):
    cluster = world.cluster
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    code = f"""
import socket, sys
s = socket.create_connection(({world.address!r}, 80), 5)
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: first.test\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Key: {key}\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n")
head = s.recv(4096)
assert b" 101 " in head and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, head
print("open", flush=True)
for line in sys.stdin:
    s.sendall(line.encode())
    print(s.recv(100).decode(), end="", flush=True)
"""
    socket = subprocess.Popen(cluster.net.inside([sys.executable, "-c", code]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert socket.stdout.readline() == "open\n"
        world.apply(ingress("reload", {"reload.test": [path("green")]}, {NGINX + "proxy-read-timeout": "77"}))
        world.serves("reload.test", "green")
        socket.stdin.write("still there\n")
        socket.stdin.flush()
        assert socket.stdout.readline() == "still there\n"
    finally:
        socket.kill()
    before = world.proxies()
    assert len(before) == 2
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(world.proxies()) == 2 and not set(world.proxies().values()) & set(before.values()))
    world.serves("first.test", "red")
    # Without any Ingress there is no HAProxy, no service and no address.
    cluster.kubectl("delete", "ingress", "--all")
    eventually(lambda: not world.proxies())
    eventually(lambda: cluster.kubectl("-n", "kube-system", "get", "service", "dhow-ingress", check=False).returncode == 1)
