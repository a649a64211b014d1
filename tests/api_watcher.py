"""Watches config maps as an informer does: from where the last watch broke off, or listing anew where the server does not remember that far,
until its input ends. Prints the name of each that came."""

import http.client
import json
import sys

from api_connection import end_of_input, opener

PATH = "/api/v1/namespaces/default/configmaps"


def main(kubeconfig):
    connect, ended = opener(kubeconfig), end_of_input()
    version, known, broken, lists = None, set(), 0, 0
    while not ended.is_set():
        try:
            connection = connect()
            if version is None:
                connection.request("GET", PATH)
                listed = json.load(connection.getresponse())
                version = listed["metadata"]["resourceVersion"]
                came = [item["metadata"]["name"] for item in listed["items"] if item["metadata"]["name"] not in known]
                known.update(came)
                print("\n".join(["watching"] if lists == 0 else came), flush=True)
                lists += 1
            connection.request("GET", f"{PATH}?watch=1&timeoutSeconds=5&resourceVersion={version}")
            answer = connection.getresponse()
            if answer.status != 200:
                ended.wait(0.02)
                continue
            for line in answer:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    assert event["object"]["code"] == 410, event
                    version = None
                    break
                version, name = event["object"]["metadata"]["resourceVersion"], event["object"]["metadata"]["name"]
                if event["type"] == "ADDED" and name not in known:
                    known.add(name)
                    print(name, flush=True)
        except (OSError, http.client.HTTPException, json.JSONDecodeError, KeyError):
            broken += 1
            ended.wait(0.02)
    print(f"lists={lists},broken={broken}", file=sys.stderr)


main(*sys.argv[1:])
