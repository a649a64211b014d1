"""A Debian system with nginx, made by mmdebstrap, as an image like any other: in pods and in docker."""

import os
import platform
import subprocess

import pytest
from harness import eventually, run

NAME = "registry.dhow.internal:5000/nginx:1"
CACHE = os.path.expanduser("~/.cache/dhow-test")


def codename():
    """The machine's own release: its keys are there."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


@pytest.fixture(scope="session")
def nginx(cluster):
    archive = f"{CACHE}/nginx.tar"
    if not os.path.exists(archive):
        os.makedirs(CACHE, exist_ok=True)
        made = subprocess.run(["mmdebstrap", "--variant=apt", "--include=nginx-light", codename(), archive + ".part.tar"],
                              capture_output=True, text=True, timeout=600)
        if made.returncode != 0:
            pytest.skip("mmdebstrap cannot make a root file system here: " + made.stderr[-300:])
        os.rename(archive + ".part.tar", archive)
    cluster.dhow("image", "--tag", NAME, "--archive", archive, "--entrypoint", "nginx", "--cmd", "-g", "--cmd", "daemon off;",
                 "--expose", "80/tcp", timeout=180)
    return NAME


def test_nginx_serves_from_a_pod_through_the_load_balancer(cluster, namespace, nginx):
    cluster.kubectl("-n", namespace, "create", "deployment", "nginx", f"--image={nginx}", "--port=80", "--replicas=2")
    cluster.kubectl("-n", namespace, "rollout", "status", "deployment/nginx", "--timeout=60s")
    cluster.kubectl("-n", namespace, "expose", "deployment/nginx", "--type=LoadBalancer", "--port=80")
    service = eventually(lambda: cluster.get("service", "nginx", "-n", namespace)["status"]["loadBalancer"].get("ingress"))
    page = eventually(lambda: cluster.curl(f"http://{service[0]['ip']}/").stdout)
    assert "Welcome to nginx" in page
    processes = cluster.kubectl("-n", namespace, "exec", "deploy/nginx", "--", "sh", "-c", "cat /proc/1/cmdline").stdout
    assert "nginx" in processes


def test_nginx_runs_in_docker_with_a_published_port(cluster, nginx):
    cluster.docker("pull", nginx, timeout=120)
    cluster.docker("run", "-d", "--name", "edge", "-p", "127.0.0.1:8088:80", "--memory", "128m", nginx)
    try:
        page = eventually(lambda: cluster.curl("http://127.0.0.1:8088/").stdout)
        assert "Welcome to nginx" in page
        assert "PRETTY_NAME" in cluster.docker("exec", "edge", "cat", "/etc/os-release").stdout
    finally:
        cluster.docker("rm", "-f", "edge")
