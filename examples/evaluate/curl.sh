#!/bin/sh
# Evaluates jobs with curl and sed: curl.sh JOBS OUTPUT [ERRORS]
set -eu
jobs=$1 output=$2 errors=${3:-errors.jsonl}
url=${OPENAI_BASE_URL:-http://127.0.0.1:8080/v1}

# The key is not an argument, which everybody on the machine could read.
call() {
  printf 'header = "Authorization: Bearer %s"\n' "${OPENAI_API_KEY:-none}" |
    curl --silent --show-error --fail-with-body --config - "$@"
}
# The text of a field of an object that is one line; nothing if it is null.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

uploaded=$(call "$url/files" -F purpose=batch -F "file=@$jobs")
file=$(printf '%s\n' "$uploaded" | field id)
made=$(call "$url/batches" -H 'content-type: application/json' -d "{\"input_file_id\":\"$file\",
  \"endpoint\":\"/v1/chat/completions\",\"completion_window\":\"24h\"}")
batch=$(printf '%s\n' "$made" | field id)
echo "$batch is made"

status=validating
while :; do
  seen=$(call "$url/batches/$batch")
  status=$(printf '%s\n' "$seen" | field status)
  echo "$status $(printf '%s\n' "$seen" | sed -n 's/.*"request_counts":{\([^}]*\)}.*/\1/p')"
  case $status in
    completed) break ;;
    failed | expired | cancelled) printf '%s\n' "$seen" >&2; exit 1 ;;
  esac
  sleep 1
done

: >"$output"
: >"$errors"
for result in "output_file_id $output" "error_file_id $errors"; do
  name=$(printf '%s\n' "$seen" | field "${result%% *}")
  [ -z "$name" ] || call "$url/files/$name/content" -o "${result#* }"
done
python3 "$(dirname "$0")/summary.py" "$jobs" "$output" "$errors"
