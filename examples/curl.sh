#!/bin/sh
# Transcribe a file with nothing but curl: submit, wait, fetch the subtitles.
#
#     examples/curl.sh talk.mp3 > talk.srt
set -eu
file=$1
url=${WHISPERD_URL:-http://127.0.0.1:8002}

ask() {
    if [ -n "${WHISPERD_KEY:-}" ]; then
        # The key comes from standard input: on the command line every user of the machine could read it.
        printf 'header = "Authorization: Bearer %s"\n' "$WHISPERD_KEY" | curl -sS --fail-with-body -K - "$@"
    else
        curl -sS --fail-with-body "$@"
    fi
}
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# Under its key the same submission makes one task, however often it is sent: so curl may try again.
key=$(date +%s)-$$
task=$(ask --retry 4 -H "Idempotency-Key: $key" -F "file=@$file" -F priority=5 "$url/tasks/transcription" | field task_id)
echo "task $task" >&2

status=queued
while [ "$status" = queued ] || [ "$status" = processing ]; do
    status=$(ask "$url/tasks/$task?wait=30" | field status)
done
ask "$url/tasks/$task/result?format=srt" # or 410 with the reason, when it has failed
