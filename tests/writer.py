"""What writes to a cluster all the time, and remembers what was acknowledged."""

import os
import subprocess
import sys

from harness import eventually

WRITER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "api_writer.py")


class Writer:
    """Config maps written one after the other; what was acknowledged is remembered."""

    def __init__(self, cluster, prefix):
        self.cluster, self.prefix, self.acknowledged = cluster, prefix, []
        config = f"{cluster.data}/{prefix}.json"
        with open(config, "w") as f:
            f.write(cluster.kubectl("config", "view", "--raw", "-o", "json").stdout)
        self.process = subprocess.Popen(cluster.net.inside([sys.executable, WRITER, config, prefix]), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.rest = ""

    def read(self):
        try:
            text = os.read(self.process.stdout.fileno(), 1 << 20).decode()
        except BlockingIOError:
            text = ""
        *lines, self.rest = (self.rest + text).split("\n")
        self.acknowledged += lines
        return len(self.acknowledged)

    def goes_on(self, more=20):
        """Waits until that many further writes were acknowledged."""
        before = self.read()
        eventually(lambda: self.read() >= before + more, timeout=60)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        os.set_blocking(self.process.stdout.fileno(), True)
        *lines, _ = (self.rest + self.process.stdout.read()).split("\n")
        self.acknowledged += lines

    def nothing_is_lost(self):
        there = {c["metadata"]["name"] for c in self.cluster.get("configmaps")["items"]}
        lost = [name for name in self.acknowledged if name not in there]
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} acknowledged writes are lost: {lost[:5]}"
