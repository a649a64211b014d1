"""Other builds of the program, made of the one under test: what tells them apart is a stamp in a section of the file and the linker's build id."""

import os
import re
import shutil

from harness import BUILD

STAMP = re.compile(rb"dhow (\d+\.\d+\.\d+) store (\d+) (\d+)\0")
BUILD_ID = re.compile(rb"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0(.{20})", re.DOTALL)


def version():
    """Of the program under test, as numbers."""
    with open(os.path.join(BUILD, "dhow"), "rb") as f:
        return [int(n) for n in STAMP.search(f.read())[1].split(b".")]


def later(minor):
    """A version so many minor numbers from the one under test."""
    return "{}.{}.0".format(version()[0], version()[1] + minor)


def build(folder, version=None, store=None, another=False, change=lambda text: text):
    """Copies the programs into `folder`, with another version, other forms of the store ("2 2"), or as another build of the same; `change` may
    spoil the bytes. Gives the path of dhow."""
    os.makedirs(folder)
    with open(os.path.join(BUILD, "dhow"), "rb") as f:
        text = bytearray(f.read())
    stamp = STAMP.search(text)
    new = f"dhow {version or stamp[1].decode()} store {store or '{} {}'.format(stamp[2].decode(), stamp[3].decode())}".encode()
    assert len(new) < 64
    text[stamp.start():stamp.start() + 64] = new.ljust(64, b"\0")
    if another:
        id = BUILD_ID.search(text)
        text[id.start(1):id.end(1)] = os.urandom(20)
    with open(os.path.join(folder, "dhow"), "wb") as f:
        f.write(change(bytes(text)))
    os.chmod(os.path.join(folder, "dhow"), 0o755)
    shutil.copy(os.path.join(BUILD, "dhow-shim"), folder)
    os.symlink(os.path.join(BUILD, "examples"), os.path.join(folder, "examples"))
    return os.path.join(folder, "dhow")


def script(folder, text, version):
    """A program that tells a version as dhow does and then does what the shell script says."""
    os.makedirs(folder)
    with open(os.path.join(folder, "dhow"), "w") as f:
        f.write('#!/bin/sh\n[ "$1" = version ] && { echo \'{"version":"%s","build":"%s","storeForm":{"writes":1,"reads":1}}\'; exit; }\n%s\n'
                % (version, os.urandom(6).hex(), text))
    os.chmod(os.path.join(folder, "dhow"), 0o755)
    shutil.copy(os.path.join(BUILD, "dhow-shim"), folder)
    return os.path.join(folder, "dhow")
