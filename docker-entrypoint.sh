#!/bin/sh
# In the image: train.py and its like run from wherever they lie, -m NAME is Python's, anything else is a program.
set -eu
case "${1:-}" in
    *.py) script="${TIERWAVE_HOME:-/opt/tierwave}/$1"; shift; exec python "$script" "$@" ;;
    -*) exec python "$@" ;;
    *) exec "$@" ;;
esac
