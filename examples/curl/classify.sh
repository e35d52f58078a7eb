#!/usr/bin/env bash
# Classifies image files over REST: nothing is needed but curl and bash.
set -euo pipefail

usage="usage: classify.sh [--url http://HOST:PORT] [--top-k N] MODEL IMAGE...
Classifies JPEG, PNG, WebP and BMP files; answers are one line of JSON each, VALUE:INDEX:NAME.
  --url    address of HTTP [http://127.0.0.1:8000]
  --top-k  labels of an image [3]"
url=http://127.0.0.1:8000
top_k=3
while [[ ${1-} == --* ]]; do
  case $1 in
    --url) url=${2?--url: give http://HOST:PORT} && shift 2 ;;
    --top-k) top_k=${2?--top-k: give a number} && shift 2 ;;
    --help) echo "$usage" && exit 0 ;;
    *) echo "$usage" >&2 && exit 2 ;;
  esac
done
(($# > 1)) || { echo "$usage" >&2 && exit 2; }
model=$1
shift

curl -sS --fail --output /dev/null "$url/v2/health/live" || {
  echo "no server answers at $url: is 'convserve serve' running?" >&2
  exit 1
}
status=0
for file in "$@"; do
  [[ -r $file ]] || { echo "$file: cannot be read" >&2 && status=1 && continue; }
  # A request is JSON and, behind it, one element of BYTES: its length (4 bytes, the lowest first),
  # then the file as it is. A header says where the JSON ends.
  size=$(($(wc -c < "$file")))
  json='{"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1, 1],
    "parameters": {"binary_data_size": '$((size + 4))'}}],
    "outputs": [{"name": "logits", "parameters": {"classification": '$top_k'}}]}'
  length=$(printf '\\x%02x' $((size & 255)) $((size >> 8 & 255)) $((size >> 16 & 255)) $((size >> 24)))
  printf '%s: ' "$file"
  { printf '%s' "$json" && printf '%b' "$length" && cat "$file"; } |
    curl -sS --fail-with-body --data-binary @- --header "Inference-Header-Content-Length: ${#json}" \
      --header "Content-Type: application/octet-stream" "$url/v2/models/$model/infer" || status=1
  echo
done
exit $status
