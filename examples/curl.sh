#!/bin/sh
# The same by curl: sh examples/curl.sh [http://127.0.0.1:8000]
set -eu
address="${1:-http://127.0.0.1:8000}"
curl --fail-with-body --silent --show-error "$address/v1/models"
echo
curl --fail-with-body --silent --show-error "$address/v1/analyze" -H 'Content-Type: application/json' \
    -d '{"input": "The cat sat on the mat.", "weights": "none", "diagnostics": ["previous"], "outputs": []}'
echo
# A safetensors file, for whoever reads tensors: the weights of every head, 4 bytes a number
curl --fail-with-body --silent --show-error "$address/v1/attend" -H 'Content-Type: application/json' -H 'Accept: application/x-safetensors' \
    -d '{"q": [[1, 0], [0, 1]], "k": [[1, 0], [0, 1]], "v": [[1, 2], [3, 4]], "mask": "causal"}' | wc -c
