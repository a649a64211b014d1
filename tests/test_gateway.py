"""The Gateway API on the nodes' HAProxy, asked with curl and openssl from outside: listeners, routes, what is refused and how
that is told, and that nothing is lost while pods change and a gateway beside is wrong."""

import json
import os
import re
import signal
import time

from edge import EdgeWorld, edge_world
from harness import eventually, run
from pods import apply, role_process
from test_ingress import Traffic

API = "gateway.networking.k8s.io/v1"


def listener(name, port=80, protocol="HTTP", **spec):
    return {"name": name, "port": port, "protocol": protocol, **spec}


def gateway(name, *listeners, **spec):
    return {"apiVersion": API, "kind": "Gateway", "metadata": {"name": name}, "spec": {"gatewayClassName": "dhow", "listeners": list(listeners), **spec}}


def ref(service, port=80, **more):
    return {"name": service, "port": port, **more}


def rule(*backends, matches=None, filters=None, **more):
    return {**({"matches": matches} if matches else {}), **({"filters": filters} if filters else {}), "backendRefs": list(backends), **more}


def prefix(value, **more):
    return {"path": {"type": "PathPrefix", "value": value}, **more}


def exact(value, **more):
    return {"path": {"type": "Exact", "value": value}, **more}


def route(name, parent, *rules, hostnames=None, kind="HTTPRoute", **ref_more):
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": parent, **ref_more}], **({"hostnames": hostnames} if hostnames else {}), "rules": list(rules)}}


class World(EdgeWorld):
    def __init__(self, cluster, folder):
        super().__init__(cluster, folder)
        self.apply(gateway("web", listener("all"), listener("other", 8080, hostname="*.other.test")))
        self.address = self.programmed("web")

    def conditions(self, kind, name, listener=None, parent=0, namespace="default"):
        """By type: (status, reason)."""
        status = self.cluster.get(kind, name, "-n", namespace).get("status", {})
        if listener:
            status = next((one for one in status.get("listeners", []) if one["name"] == listener), {})
        for list_ in ("parents", "ancestors"):
            if list_ in status:
                status = status[list_][parent] if parent < len(status[list_]) else {}
        return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", [])}

    def told(self, kind, name, type_, reason, **more):
        return eventually(lambda: self.conditions(kind, name, **more).get(type_, ("", ""))[1] == reason)

    def programmed(self, name):
        """Waits for a gateway; its address."""
        self.cluster.kubectl("wait", "--for=condition=Programmed", f"gateway/{name}", "--timeout=30s")
        return self.cluster.get("gateway", name)["status"]["addresses"][0]["value"]


world = edge_world(World)


def test_a_gateway_has_an_address_and_says_how_it_is(world):
    cluster = world.cluster
    assert re.search(r"dhow\s+dhow.io/gateway\s+True", cluster.kubectl("get", "gatewayclass").stdout)
    lines = cluster.kubectl("get", "gtw", "web").stdout.split("\n")
    assert lines[0].split() == ["NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"] and lines[1].split()[:4] == ["web", "dhow", world.address, "True"]
    status = cluster.get("gateway", "web")["status"]
    assert [one["name"] for one in status["listeners"]] == ["all", "other"]
    assert [kind["kind"] for kind in status["listeners"][0]["supportedKinds"]] == ["HTTPRoute", "GRPCRoute"]
    assert status["listeners"][0]["attachedRoutes"] == 0
    assert world.conditions("gateway", "web", "all") == {"Accepted": ("True", "Accepted"), "Conflicted": ("False", "NoConflicts"),
                                                          "ResolvedRefs": ("True", "ResolvedRefs"), "Programmed": ("True", "Programmed")}
    assert eventually(lambda: world.status("http://nowhere.test/") == 404)
    # Those that are wrong say so, and are in nobody's way.
    world.apply(gateway("wrong", listener("udp", 53, "UDP"), listener("one", 80), listener("two", 80), listener("tcp", 443, "TCP"),
                        listener("https", 443, "HTTPS", tls={"certificateRefs": [{"name": "missing"}]}),
                        listener("fine", 8000, allowedRoutes={"kinds": [{"kind": "HTTPRoute"}, {"kind": "TCPRoute"}]})),
                gateway("elsewhere", listener("x"), addresses=[{"type": "Hostname", "value": "x.test"}]),
                gateway("fixed", listener("x"), addresses=[{"value": world.address.rsplit(".", 1)[0] + ".240"}], infrastructure={"labels": {"team": "a"}}))
    for name, type_, reason in (("udp", "Accepted", "UnsupportedProtocol"), ("one", "Conflicted", "HostnameConflict"), ("two", "Conflicted", "HostnameConflict"),
                                ("tcp", "Conflicted", "ProtocolConflict"), ("https", "ResolvedRefs", "InvalidCertificateRef"),
                                ("fine", "ResolvedRefs", "InvalidRouteKinds"), ("fine", "Accepted", "Accepted")):
        world.told("gateway", "wrong", type_, reason, listener=name)
    assert world.conditions("gateway", "wrong")["Accepted"] == ("True", "ListenersNotValid")
    world.told("gateway", "elsewhere", "Accepted", "UnsupportedAddress")
    world.programmed("wrong")
    assert world.programmed("fixed").endswith(".240")
    assert len(json.loads(cluster.kubectl("-n", "kube-system", "get", "svc", "-o", "json", "-l", "team=a").stdout)["items"]) == 1
    cluster.kubectl("delete", "gateway", "wrong", "elsewhere", "fixed")
    eventually(lambda: len(json.loads(cluster.kubectl("-n", "kube-system", "get", "svc", "-o", "json", "-l", "gateway.networking.k8s.io/gateway-name").stdout)["items"]) == 1)


def test_the_most_specific_match_has_a_request(world):
    other = lambda name, **more: {"name": name, "value": "1", **more}
    world.apply(
        route("shop", "web",
              rule(ref("red")),
              rule(ref("blue"), matches=[prefix("/foo/"), exact("/one")]),
              rule(ref("green"), matches=[exact("/foo"), {"path": {"type": "RegularExpression", "value": "/re/[0-9]+"}}]),
              rule(ref("green"), matches=[prefix("/foo", headers=[other("X-Blue"), other("x-two")]), prefix("/foo/bar", method="PUT"), exact("/one", queryParams=[other("q")])]),
              rule(ref("nobody"), matches=[prefix("/empty")]), rule(ref("missing"), matches=[prefix("/missing")]), rule(matches=[prefix("/none")]),
              hostnames=["shop.test"]),
        route("wild", "web", rule(ref("blue")), hostnames=["*.wild.test", "shop.test"]),
        route("deep", "web", rule(ref("green")), hostnames=["*.deep.wild.test"]),
        route("ported", "web", rule(ref("red")), hostnames=["a.other.test", "b.test"], port=8080),
        route("shared", "web", rule(ref("red", weight=9), ref("blue", weight=1), ref("green", weight=0)), hostnames=["shared.test"]))
    for name in ("shop", "wild", "deep", "ported", "shared"):
        world.told("httproute", name, "Accepted", "Accepted")
    world.serves("shared.test", "red")
    world.serves("shop.test", "red")
    for host, asked, name, *args in (
            ("shop.test", "/foo", "green"), ("shop.test", "/foo/", "blue"), ("shop.test", "/foo/bar?x", "blue"), ("shop.test", "/foobar", "red"),
            ("SHOP.test", "/re/12", "green"), ("shop.test", "/re/12a", "red"), ("shop.test", "/foo/a", "green", "-H", "x-blue: 1", "-H", "X-Two: 1"),
            ("shop.test", "/foo/a", "blue", "-H", "x-blue: 1"), ("shop.test", "/foo/bar", "green", "-X", "PUT"), ("shop.test", "/foo/bar/x", "blue", "-X", "POST"),
            ("shop.test", "/one", "blue"), ("shop.test", "/one?p=2&q=1", "green"), ("a.wild.test", "/", "blue"), ("a.b.wild.test", "/", "blue"),
            ("x.deep.wild.test", "/", "green"), ("a.other.test:8080", "/", "red")):
        answer = world.get(host, asked, *args)
        assert answer["name"] == name, (host, asked, args, answer)
    for url, code in (("http://wild.test/", 404), ("http://a.other.test/", 404), ("http://b.test:8080/", 404), ("http://shop.test/empty", 503),
                      ("http://shop.test/missing", 500), ("http://shop.test/none", 500)):
        assert world.status(url) == code, url
    headers = world.get("a.other.test:8080")["headers"]
    assert headers["x-forwarded-port"] == "8080" and headers["x-forwarded-proto"] == "http"
    names = [world.get("shared.test")["name"] for _ in range(60)]
    assert 0 < names.count("blue") < 25 and set(names) == {"red", "blue"}, names
    world.told("httproute", "shop", "ResolvedRefs", "BackendNotFound")
    eventually(lambda: [one["attachedRoutes"] for one in world.cluster.get("gateway", "web")["status"]["listeners"]] == [4, 1])


def test_filters_change_what_passes(world):
    headers = lambda **lists: {k: [{"name": n, "value": v} for n, v in pairs] if k != "remove" else pairs for k, pairs in lists.items()}
    modify = {"type": "RequestHeaderModifier", "requestHeaderModifier": headers(set=[("X-Set", "100% 'sure'")], add=[("X-Add", "b")], remove=["X-Gone"])}
    respond = {"type": "ResponseHeaderModifier", "responseHeaderModifier": headers(set=[("X-Answer", "yes")])}
    rewrite = lambda **spec: {"type": "URLRewrite", "urlRewrite": spec}
    redirect = lambda **spec: {"type": "RequestRedirect", "requestRedirect": spec}
    new = lambda value: {"type": "ReplacePrefixMatch", "replacePrefixMatch": value}
    world.apply(
        route("filters", "web",
              rule(ref("red"), matches=[prefix("/modify")], filters=[modify, respond], timeouts={"request": "2s"}),
              rule(ref("red"), matches=[prefix("/old")], filters=[rewrite(hostname="inner.test", path=new("/new"))]),
              rule(ref("red"), matches=[prefix("/strip")], filters=[rewrite(path=new("/"))]),
              rule(ref("red"), matches=[prefix("/full")], filters=[rewrite(path={"type": "ReplaceFullPath", "replaceFullPath": "/all"})]),
              rule(ref("red", filters=[modify]), ref("blue", weight=0), matches=[prefix("/own")]),
              rule(ref("red"), matches=[prefix("/wait")], timeouts={"request": "1s"}),
              {"matches": [prefix("/secure")], "filters": [redirect(scheme="https", statusCode=301)]},
              {"matches": [prefix("/moved")], "filters": [redirect(hostname="there.test", path=new("/gone"), port=8443)]},
              *[rule(ref("red"), matches=[prefix("/mirror/" + name)], filters=[{"type": "RequestMirror", "requestMirror": {"backendRef": ref(to), **share}}])
                for name, to, share in (("all", "blue", {}), ("none", "blue", {"percent": 0}), ("half", "blue", {"fraction": {"numerator": 1, "denominator": 2}}), ("nowhere", "missing", {}))],
              hostnames=["filters.test"]),
        route("mirrored", "web", rule(ref("red"), filters=[{"type": "RequestMirror", "requestMirror": {"backendRef": ref("missing")}}]), hostnames=["mirrored.test"]))
    world.serves("filters.test", "red", "/modify")
    answer = world.get("filters.test", "/modify", "-H", "X-Gone: 1", "-H", "X-Add: a", "-H", "X-Set: no")
    assert answer["headers"]["x-set"] == "100% 'sure'" and "x-gone" not in answer["headers"] and answer["answer"]["x-answer"] == "yes"
    assert world.get("filters.test", "/own")["headers"]["x-set"] == "100% 'sure'"
    for asked, path in (("/old/x?y=z", "/new/x?y=z"), ("/old", "/new"), ("/old/", "/new/"), ("/strip", "/"), ("/strip/", "/"), ("/strip/strip", "/strip"), ("/full/x?y", "/all?y")):
        assert world.get("filters.test", asked)["path"] == path, asked
    assert world.get("filters.test", "/old")["headers"]["host"] == "inner.test"
    for asked, code, location in (("/secure/a?b", 301, "https://filters.test/secure/a?b"), ("/moved/a?b", 302, "http://there.test:8443/gone/a?b")):
        status, answer, _ = world.curl("http://filters.test" + asked)
        assert (status, answer["location"]) == (code, location)
    begun = time.monotonic()
    assert world.status("http://filters.test/wait/4") == 504 and time.monotonic() - begun < 3
    # Copies: all, some, none; one that leads nowhere is told, and is in nobody's way.
    for asked in ("/mirror/all?x", "/mirror/none", "/mirror/nowhere"):
        assert world.get("filters.test", asked)["name"] == "red"
    for i in range(30):
        world.get("filters.test", f"/mirror/half/{i}")
    world.apply(route("blue", "web", rule(ref("blue")), hostnames=["blue.test"]))
    world.serves("blue.test", "blue")
    asked = eventually(lambda: (lambda all: "/mirror/all?x" in all and all)([one[1] for one in world.get("blue.test", "/asked")["asked"]]))
    assert "/mirror/none" not in asked and 3 < len([one for one in asked if one.startswith("/mirror/half/")]) < 27, asked
    world.told("httproute", "mirrored", "ResolvedRefs", "BackendNotFound")
    world.apply(route("wrong", "web", rule(ref("red"), filters=[{"type": "ExtensionRef", "extensionRef": {"group": "x.test", "kind": "X", "name": "x"}}]), hostnames=["wrong.test"]))
    world.told("httproute", "wrong", "Accepted", "UnsupportedValue")
    # Endpoints that somebody wrote lead back to the gateway: a request comes around once.
    world.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "circle"}, "spec": {"ports": [{"port": 80, "targetPort": 80}]}},
                {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "circle"},
                 "subsets": [{"addresses": [{"ip": world.nodes()[0]}], "ports": [{"port": world.node_ports(world.address)[80]}]}]},
                route("circle", "web", rule(ref("circle")), hostnames=["circle.test"]))
    assert eventually(lambda: world.status("http://circle.test/") == 508)
    # A firewall, by annotation of a route.
    guarded = route("guarded", "web", rule(ref("red")), hostnames=["guarded.test"])
    guarded["metadata"]["annotations"] = {"dhow.io/waf": "prevent"}
    world.apply(guarded)
    world.serves("guarded.test", "red")
    assert world.status("http://guarded.test/?id=1%27%20OR%20%271%27=%271") == 403
    line = eventually(lambda: world.access_log(host="guarded.test", status=403))[0]
    assert "942100" in line["waf"] and line["route"] == "HTTPRoute/default/guarded" and line["gateway"] == "Gateway/default/web"


def test_what_a_route_may_use_and_where_it_may_attach(world):
    cluster = world.cluster
    cluster.kubectl("create", "namespace", "team")
    cluster.kubectl("label", "namespace", "team", "guests=yes")
    world.apply(gateway("guarded", listener("same", 80, hostname="same.test"),
                        listener("chosen", 80, hostname="*.chosen.test", allowedRoutes={"namespaces": {"from": "Selector", "selector": {"matchLabels": {"guests": "yes"}}}}),
                        listener("grpc", 8080, allowedRoutes={"namespaces": {"from": "All"}, "kinds": [{"kind": "GRPCRoute"}]})))
    parent = {"name": "guarded", "namespace": "default"}
    guest = lambda name, **more: {"apiVersion": API, "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "team"},
                                  "spec": {"parentRefs": [{**parent, **more.pop("parent", {})}], "rules": [rule(ref("red", namespace="default"))], **more}}
    apply(cluster, guest("chosen", hostnames=["a.chosen.test"]), guest("same", parent={"sectionName": "same"}), guest("none", parent={"sectionName": "none"}),
          guest("host", parent={"sectionName": "chosen"}, hostnames=["b.test"]), guest("kind", parent={"port": 8080}), namespace="team")
    for name, reason in (("same", "NotAllowedByListeners"), ("none", "NoMatchingParent"), ("host", "NoMatchingListenerHostname"), ("kind", "NotAllowedByListeners"), ("chosen", "Accepted")):
        world.told("httproute", name, "Accepted", reason, namespace="team")
    address = world.programmed("guarded")
    world.told("httproute", "chosen", "ResolvedRefs", "RefNotPermitted", namespace="team")
    assert eventually(lambda: world.status("http://a.chosen.test/", address=address) == 500)
    # The gateway's own pages, where nothing can be served and where no route is for a request.
    cluster.kubectl("annotate", "gateway", "guarded", "dhow.io/error-pages=excuses")
    world.told("gateway", "guarded", "ResolvedRefs", "InvalidErrorPages")
    cluster.kubectl("create", "configmap", "excuses", "--from-literal=500=<p>broken</p>", "--from-literal=404.json={}")
    world.told("gateway", "guarded", "ResolvedRefs", "ResolvedRefs")
    for host, code, kind, text in (("a.chosen.test", 500, "text/html", "<p>broken</p>"), ("nowhere.test", 404, "application/json", "{}")):
        for node in world.nodes():
            eventually(lambda host=host, text=text, node=node: world.curl(f"http://{host}/", node=(node, world.node_ports(address)[80]))[2] == text)
        status, headers, _ = world.curl(f"http://{host}/", address=address)
        assert (status, headers["content-type"].split(";")[0]) == (code, kind)
    assert "default backend" in world.curl("http://nowhere.test/")[2]
    grant = lambda name, kind, namespace, to: {"apiVersion": API, "kind": "ReferenceGrant", "metadata": {"name": name},
                                               "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace}], "to": [{"group": "", **to}]}}
    world.apply(grant("routes", "HTTPRoute", "team", {"kind": "Service", "name": "red"}))
    world.serves("a.chosen.test", "red", address=address)
    world.told("httproute", "chosen", "ResolvedRefs", "ResolvedRefs", namespace="team")
    # Copies go to another namespace where it allows that, and nowhere else.
    copied = guest("copied", hostnames=["copied.chosen.test"])
    copied["spec"]["rules"][0]["filters"] = [{"type": "RequestMirror", "requestMirror": {"backendRef": ref("green", namespace="default")}}]
    apply(cluster, copied, namespace="team")
    world.told("httproute", "copied", "ResolvedRefs", "RefNotPermitted", namespace="team")
    world.serves("copied.chosen.test", "red", "/not/copied", address=address)
    world.apply(grant("copies", "HTTPRoute", "team", {"kind": "Service", "name": "green"}), route("green", "web", rule(ref("green")), hostnames=["green.test"]))
    world.told("httproute", "copied", "ResolvedRefs", "ResolvedRefs", namespace="team")
    world.serves("green.test", "green")
    assert eventually(lambda: world.get("copied.chosen.test", "/is/copied", address=address)["name"] == "red"
                      and "/is/copied" in (asked := [one[1] for one in world.get("green.test", "/asked")["asked"]]) and "/not/copied" not in asked)
    cluster.kubectl("label", "namespace", "team", "guests-")
    world.told("httproute", "chosen", "Accepted", "NotAllowedByListeners", namespace="team")
    assert eventually(lambda: world.status("http://a.chosen.test/", address=address) == 404)
    # What attaches to one gateway is at no other.
    assert world.get("shop.test")["name"] == "red" and world.status("http://a.chosen.test/") == 404


def test_https_ends_at_the_listener_with_its_certificate(world):
    cluster = world.cluster
    cluster.kubectl("create", "namespace", "vault")
    for name, host, namespace in (("one", "one.test", "default"), ("two", "*.two.test", "vault"), ("again", "one.test", None)):
        base = world.certificate(host, name)
        if namespace:
            cluster.kubectl("-n", namespace, "create", "secret", "tls", name, f"--cert={base}.crt", f"--key={base}.key")
    tls = lambda **secret: {"certificateRefs": [secret]}
    world.apply(gateway("secure", listener("one", 443, "HTTPS", hostname="one.test", tls=tls(name="one")),
                        listener("two", 443, "HTTPS", hostname="*.two.test", tls=tls(name="two", namespace="vault")), listener("plain", 80)),
                route("secure", "secure", rule(ref("red")), sectionName="one"), route("secure-two", "secure", rule(ref("blue")), sectionName="two"),
                route("to-https", "secure", {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]}, sectionName="plain"))
    address = world.programmed("secure")

    def crt(name):
        with open(os.path.join(world.folder, name + ".crt")) as f:
            return f.read().strip()
    eventually(lambda: world.served_certificate("one.test", address) == crt("one"))
    world.serves("one.test", "red", scheme="https", address=address)
    assert world.get("one.test", scheme="https", address=address)["headers"]["x-forwarded-proto"] == "https"
    done = run(cluster.net.inside(["curl", "-sk", "-o", "/dev/null", "-w", "%{http_version}", "--resolve", f"one.test:443:{address}", "https://one.test/"]))
    assert done.stdout == "2"
    world.told("gateway", "secure", "ResolvedRefs", "RefNotPermitted", listener="two")
    assert world.conditions("gateway", "secure", "two")["Programmed"] == ("False", "Invalid")
    assert eventually(lambda: world.status("https://a.two.test/", address=address) == 404)
    apply(cluster, {"apiVersion": API, "kind": "ReferenceGrant", "metadata": {"name": "tls"},
                    "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "default"}], "to": [{"group": "", "kind": "Secret"}]}}, namespace="vault")
    eventually(lambda: world.served_certificate("a.two.test", address) == crt("two"))
    world.serves("a.two.test", "blue", scheme="https", address=address)
    # A connection of one listener is not used for another: the client is told to open its own.
    other = lambda host: world.status("https://one.test/", "-H", f"Host: {host}", address=address)
    assert eventually(lambda: other("a.two.test") == 421) and other("one.test") == 200 and other("nowhere.test") == 404
    assert world.curl("http://one.test/a", address=address)[1]["location"] == "https://one.test/a"
    base = os.path.join(world.folder, "again")
    fresh = cluster.kubectl("create", "secret", "tls", "one", f"--cert={base}.crt", f"--key={base}.key", "--dry-run=client", "-o", "json").stdout
    cluster.kubectl("replace", "-f", "-", input=fresh)
    eventually(lambda: world.served_certificate("one.test", address) == crt("again"))
    # Clients that must show a certificate: none other is let in, and nobody where nobody can be checked.
    for name in ("known", "stranger"):
        world.certificate(f"{name}.test", name)
    cluster.kubectl("create", "configmap", "clients", f"--from-file=ca.crt={os.path.join(world.folder, 'known.crt')}")
    frontend = lambda name: {"frontend": {"default": {"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}]}}}}
    world.apply(gateway("mutual", listener("https", 443, "HTTPS", tls=tls(name="one")), tls=frontend("clients")),
                gateway("nobody", listener("https", 443, "HTTPS", tls=tls(name="one")), tls=frontend("missing")), route("mutual", "mutual", rule(ref("red"))))
    address = world.programmed("mutual")
    shown = lambda name: ("--cert", os.path.join(world.folder, name + ".crt"), "--key", os.path.join(world.folder, name + ".key"))
    world.serves("m.test", "red", "/", *shown("known"), scheme="https", address=address)
    assert world.status("https://m.test/", address=address) == 0 and world.status("https://m.test/", *shown("stranger"), address=address) == 0
    world.told("gateway", "nobody", "Accepted", "NoValidCACertificate", listener="https")


def test_grpc_tls_tcp_and_tls_towards_backends(world):
    cluster = world.cluster
    pem = world.start_layers("green", "inner")
    service = lambda name, *ports: {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": "green"}, "ports": [
        {"name": f"p{port}", "port": port} for port in ports]}}
    cluster.kubectl("create", "configmap", "inner-ca", f"--from-file=ca.crt={pem}.crt")
    cluster.kubectl("create", "configmap", "other-ca", f"--from-file=ca.crt={world.certificate('other.test', 'other')}.crt")
    policy = lambda name, service, authority: {"apiVersion": API, "kind": "BackendTLSPolicy", "metadata": {"name": name}, "spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": service}],
        "validation": {"hostname": "inner.test", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": authority}]}}}
    call = lambda service, method: {"method": {"service": service, "method": method}}
    modify = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": "1"}]}}
    cluster.kubectl("create", "secret", "tls", "edge", f"--cert={pem}.crt", f"--key={pem}.key")
    world.apply(service("calls", 50051), service("secure", 8443), service("distrusted", 8443), service("unknown", 8443),
                policy("inner", "secure", "inner-ca"), policy("wrong", "distrusted", "other-ca"), policy("none", "unknown", "missing"),
                gateway("layers", listener("http", 80), listener("pass", 443, "TLS", tls={"mode": "Passthrough"}), listener("tcp", 9000, "TCP"), listener("round", 9001, "TCP"),
                        listener("ends", 9443, "TLS", tls={"certificateRefs": [{"name": "edge"}]})),
                route("calls", "layers", rule(ref("calls", 50051), matches=[call("shop.Cart", "Add"), {"method": {"service": "shop.List"}}], filters=[modify]),
                      hostnames=["grpc.test"], kind="GRPCRoute", sectionName="http"),
                *[route(name, "layers", rule(ref(name, 8443)), hostnames=[f"{name}.test"]) for name in ("secure", "distrusted", "unknown")],
                route("pass", "layers", rule(ref("secure", 8443)), hostnames=["*.pass.test"], kind="TLSRoute", sectionName="pass"),
                route("raw", "layers", rule(ref("red")), kind="TCPRoute", sectionName="tcp"),
                route("ends", "layers", rule(ref("blue")), kind="TCPRoute", sectionName="ends"))
    address = world.programmed("layers")
    h2 = "--http2-prior-knowledge"
    world.serves("grpc.test", "grpc", "/shop.List/Any", h2, address=address)
    answer = json.loads(world.curl("http://grpc.test/shop.Cart/Add", h2, "-X", "POST", address=address)[2])
    assert answer == {"name": "grpc", "path": "/shop.Cart/Add", "version": "HTTP/2.0", "x": "1"}
    assert world.status("http://grpc.test/shop.Cart/Remove", h2, address=address) == 404
    world.serves("secure.test", "tls", address=address)
    answer = json.loads(world.curl("http://secure.test/", address=address)[2])
    assert answer == {"name": "tls", "path": "/", "sni": "inner.test", "alpn": "h2", "shown": "0"}
    for host, code in (("distrusted.test", 503), ("unknown.test", 500)):
        eventually(lambda host=host, code=code: world.status(f"http://{host}/", address=address) == code)
    assert world.conditions("backendtlspolicy", "inner") == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}
    world.told("backendtlspolicy", "none", "Accepted", "NoValidCACertificate")
    with open(pem + ".crt") as f:
        own = f.read().strip()
    assert world.served_certificate("a.pass.test", address) == own and json.loads(world.curl("https://a.b.pass.test/x", address=address)[2])["sni"] == "a.b.pass.test"
    assert world.served_certificate("other.test", address) == ""
    assert world.get("any.test:9000", address=address)["name"] == "red" and world.get("any.test:9443", scheme="https", address=address)["name"] == "blue"
    # Connections that would come around: none is made, and the route says why, until its service leads elsewhere.
    around = lambda ip, port: {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "around"}, "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": port}]}]}
    world.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "around"}, "spec": {"ports": [{"port": 80, "targetPort": 80}]}},
                route("around", "layers", rule(ref("around")), kind="TCPRoute", sectionName="round"))
    for ip, port in ((address, 9001), (world.nodes()[0], world.node_ports(address)[9001])):
        world.apply(around(ip, port))
        world.told("tcproute", "around", "ResolvedRefs", "BackendLoop")
        eventually(lambda: world.status("http://any.test:9001/", address=address) == 0)
        world.apply(around(world.pods["red"]["status"]["podIP"], 8080))
        world.told("tcproute", "around", "ResolvedRefs", "ResolvedRefs")
        eventually(lambda: world.get("any.test:9001", address=address)["name"] == "red")
    kinds = {one["name"]: [kind["kind"] for kind in one["supportedKinds"]] for one in cluster.get("gateway", "layers")["status"]["listeners"]}
    assert kinds == {"http": ["HTTPRoute", "GRPCRoute"], "pass": ["TLSRoute"], "tcp": ["TCPRoute"], "round": ["TCPRoute"], "ends": ["TLSRoute", "TCPRoute"]}
    eventually(lambda: [one["attachedRoutes"] for one in cluster.get("gateway", "layers")["status"]["listeners"]] == [4, 1, 1, 1, 1])


def test_no_request_is_lost_while_pods_gateways_and_agents_change(world):
    cluster = world.cluster
    world.apply(route("hello", "web", rule(ref("hello")), hostnames=["hello.test"]))
    eventually(lambda: "hello from pod" in world.curl("http://hello.test/")[2])
    for node in world.nodes():
        port = world.node_ports(world.address)[80]
        eventually(lambda node=node: "hello from pod" in world.curl("http://hello.test/", node=(node, port))[2])
    traffic = Traffic(world, "hello.test")
    cluster.kubectl("rollout", "restart", "deployment/hello")
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=90s", timeout=100)
    # Other gateways come and go, right and wrong ones; the route's own conditions change.
    for i in range(3):
        world.apply(gateway(f"passing{i}", listener("a", 80), listener("b", 81 + i, "HTTPS", tls={"certificateRefs": [{"name": "nothing"}]})),
                    route("passing", f"passing{i}", rule(ref("red")), rule(ref("blue"), matches=[{"path": {"type": "RegularExpression", "value": "/x**"}}])),
                    route("hello", "web", rule(ref("hello")), rule(ref("red"), matches=[prefix("/red", headers=[{"name": f"x{i}", "value": "1"}])]), hostnames=["hello.test"]))
        passing = world.programmed(f"passing{i}")
        world.serves("x.test", "red", address=passing)
        world.serves("hello.test", "red", "/red", "-H", f"x{i}: 1")
    agent = role_process(cluster, "agent", f"{cluster.name}-node-1")
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: role_process(cluster, "agent", f"{cluster.name}-node-1") != agent)
    cluster.kubectl("rollout", "restart", "deployment/hello")
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=90s", timeout=100)
    counts, failures = traffic.end()
    assert set(counts) == {"200"} and counts["200"] > 300 and not failures, (counts, failures[:5])
    # Without any Gateway there is no service of one, and no route speaks of it.
    cluster.kubectl("delete", "gateway", "--all")
    eventually(lambda: not json.loads(cluster.kubectl("-n", "kube-system", "get", "svc", "-o", "json", "-l", "gateway.networking.k8s.io/gateway-name").stdout)["items"])
    eventually(lambda: not cluster.get("httproute", "hello")["status"]["parents"])
