"""Writes config maps through the API's address as fast as they are acknowledged, until its input ends; prints the name of each that was."""

import base64
import http.client
import json
import ssl
import sys
import tempfile
import threading


def main(kubeconfig, prefix):
    """kubeconfig: as JSON."""
    with open(kubeconfig) as f:
        config = json.load(f)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    host, _, port = cluster["server"].removeprefix("https://").rpartition(":")
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    connection, number = None, 0
    while not ended.is_set():
        name = f"{prefix}-{number}"
        number += 1
        body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": str(number)}})
        try:
            if connection is None:
                connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
            connection.request("POST", "/api/v1/namespaces/default/configmaps", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 201:
                print(name, flush=True)
            else:
                ended.wait(0.02)
        except (OSError, http.client.HTTPException):
            connection = None
            ended.wait(0.02)


main(*sys.argv[1:])
