import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from harness import Cluster, check_logs, run  # noqa: E402


# Begun first, so that nobody waits for them at the end.
LONG = ("test_real_machines_qemu", "test_cgroup_v2", "test_upgrade", "test_masters", "test_host_masters", "test_snapshot", "test_rotation", "test_drill")


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
    missing = [tool for tool in ("kubectl", "docker", "curl", "nsenter") if not shutil.which(tool)]
    reason = "needs root" if os.geteuid() != 0 else f"needs {', '.join(missing)}" if missing else None
    for item in items if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def no_reports_of_sanitizers():
    yield
    check_logs()


@pytest.fixture(scope="session")
def cluster():
    """One cluster of three nodes in three zones, with examples/hello on it, for all tests that leave it as they found it."""
    made = Cluster()
    try:
        made.up("--deploy", os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples/hello"))
        yield made
    finally:
        made.destroy()


@pytest.fixture
def namespace(cluster):
    """A Kubernetes namespace for one test."""
    import uuid

    name = "test-" + uuid.uuid4().hex[:8]
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture(scope="session")
def busybox(cluster, tmp_path_factory):
    """An image with a shell, in the cluster's registry."""
    root = tmp_path_factory.mktemp("busybox")
    (root / "bin").mkdir()
    run(["cp", "/bin/busybox", str(root / "bin/busybox")])
    run(["/bin/busybox", "--install", "-s", str(root / "bin")])
    for link in (root / "bin").iterdir():
        if link.is_symlink():
            link.unlink()
            link.symlink_to("busybox")
    (root / "tmp").mkdir(mode=0o1777)
    name = "registry.dhow.internal:5000/busybox:1"
    cluster.dhow("image", "--tag", name, "--add", f"{root}:/", "--cmd", "sh")
    return name
