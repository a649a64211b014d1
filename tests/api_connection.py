"""For scripts that run in a cluster's network: its API without a client library."""

import base64
import http.client
import json
import ssl
import tempfile
import threading
import sys


def opener(kubeconfig):
    """What makes connections to the API's address, by a kubeconfig as JSON."""
    with open(kubeconfig) as f:
        config = json.load(f)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    host, _, port = cluster["server"].removeprefix("https://").rpartition(":")
    return lambda: http.client.HTTPSConnection(host, int(port), context=context, timeout=10)


def end_of_input():
    """An event that is set when the script's input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    return ended
