#!/bin/sh
# whisperd as one file. It unpacks what follows these lines, once, and becomes the program that was in there.
set -eu
cache=${XDG_CACHE_HOME:-${HOME:?is not set, so set XDG_CACHE_HOME: whisperd unpacks itself there}/.cache}/whisperd
home=$cache/@DIGEST@
case $0 in /*) file=$0 ;; *) file=$PWD/$0 ;; esac
if [ ! -d "$home" ]; then
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/.new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  trap 'exit 1' HUP INT TERM
  tail -n +@LINE@ "$file" | tar -xzC "$new" || { echo "whisperd: cannot be unpacked into $cache" >&2; exit 1; }
  sync  # else a power cut could leave a whole folder of empty files
  mv -T "$new" "$home" 2>/dev/null || [ -d "$home" ]  # where another start was faster
  rm -rf "$new"
fi
export WHISPERD_FILE="$file"
exec "$home/whisperd" "$@"
