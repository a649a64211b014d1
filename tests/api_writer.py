"""Writes config maps through the API's address as fast as they are acknowledged, until its input ends; prints the name of each that was."""

import http.client
import json
import sys

from api_connection import end_of_input, opener


def main(kubeconfig, prefix):
    """kubeconfig: as JSON."""
    connect, ended = opener(kubeconfig), end_of_input()
    connection, number = None, 0
    while not ended.is_set():
        name = f"{prefix}-{number}"
        number += 1
        body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": str(number)}})
        try:
            if connection is None:
                connection = connect()
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
