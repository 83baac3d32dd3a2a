#!/bin/sh
# All checks of lint.py, each shown to catch a planted violation first. From the root of the tree, after make.
exec "${PYTHON:-/usr/bin/python3}" -B "$(dirname "$0")/lint.py"
