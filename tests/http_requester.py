"""Asks a URL again and again, each time on a connection of its own, until its input ends; prints how many were answered and what failed."""

import json
import sys
import urllib.request

from api_connection import end_of_input


def main(url):
    ended, answered, failed = end_of_input(), 0, []
    while not ended.is_set():
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                answer.read()
            answered += 1
        except OSError as error:
            failed.append(str(error))
        ended.wait(0.005)
    print(json.dumps({"answered": answered, "failed": failed}))


main(*sys.argv[1:])
