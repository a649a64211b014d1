"""Watches config maps as an informer does, from where the last watch broke off, until its input ends; prints the name of each that was added."""

import http.client
import json
import sys

from api_connection import end_of_input, opener


def main(kubeconfig):
    connect, ended = opener(kubeconfig), end_of_input()
    version = None
    while not ended.is_set():
        try:
            connection = connect()
            if version is None:
                connection.request("GET", "/api/v1/namespaces/default/configmaps")
                version = json.load(connection.getresponse())["metadata"]["resourceVersion"]
                print("watching", flush=True)
            connection.request("GET", f"/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=5&resourceVersion={version}")
            answer = connection.getresponse()
            if answer.status != 200:
                ended.wait(0.02)
                continue
            for line in answer:
                event = json.loads(line)
                assert event["type"] in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"), event
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "ADDED":
                    print(event["object"]["metadata"]["name"], flush=True)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            ended.wait(0.02)


main(*sys.argv[1:])
