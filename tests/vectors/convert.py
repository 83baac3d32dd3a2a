#!/usr/bin/python3
"""convert.py [DIRECTORY]: public Noise vectors (DIRECTORY/*.json, default ../shared/vectors) as lines, for the C unit test.

Only 25519_ChaChaPoly_SHA256. The format is link.txt's: KEY SPACE VALUE, hex, `-` for the empty string, a block ends at an empty line:
  block noise, source (a word), pattern (XX, IK, X, NK), then of init_prologue, resp_prologue, init_static, init_ephemeral,
  init_remote_static, resp_static, resp_ephemeral, resp_remote_static, handshake_hash those the source gives, then for each message in
  order one line `payload` and one line `ciphertext`. The first messages are the handshake's (X 1; NK, IK 2; XX 3), the others transport
  messages; writers alternate over all of them, initiator first; with X the initiator writes all.
Exit status 77 and a line on standard error when there are no vectors.
"""

import glob
import json
import os
import sys

KEYS = ("init_prologue", "resp_prologue", "init_static", "init_ephemeral", "init_remote_static", "resp_static", "resp_ephemeral",
        "resp_remote_static", "handshake_hash")
SUFFIX = "_25519_ChaChaPoly_SHA256"
DEFAULT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "vectors")


def vectors(directory):
    """(source, pattern, vector) of every vector in our suite."""
    for path in sorted(glob.glob(os.path.join(directory, "*.json"))):
        with open(path, encoding="utf-8") as f:
            for vector in json.load(f)["vectors"]:
                name = vector["protocol_name"]
                if name.startswith("Noise_") and name.endswith(SUFFIX):
                    yield os.path.basename(path)[:-5], name[6:-len(SUFFIX)], vector


def lines(directory):
    for source, pattern, vector in vectors(directory):
        yield f"block noise\nsource {source}\npattern {pattern}"
        for key in KEYS:
            if key in vector:
                yield f"{key} {vector[key] or '-'}"
        for message in vector["messages"]:
            yield f"payload {message['payload'] or '-'}"
            yield f"ciphertext {message['ciphertext'] or '-'}"
        yield ""


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    made = list(lines(where))
    if not made:
        print(f"convert.py: no vectors in {where}: skipped", file=sys.stderr)
        sys.exit(77)
    print("\n".join(made))
