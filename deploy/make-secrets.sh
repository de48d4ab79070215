#!/bin/sh
# Makes what compose.yaml takes as secrets, in deploy/secrets/ (git ignores it), and never changes what is there:
# a password for the database, and as keys of the vendors the simulators' one. Replace those by your own, a file each.
set -eu
CDPATH="" cd "$(dirname "$0")"
# The folder is for you alone. Its files are not: the containers' users must be able to read what is mounted.
mkdir -p secrets && chmod 700 secrets
umask 022
given() { [ -s "secrets/$1" ]; }
given postgres_password || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > secrets/postgres_password
given store_url || printf 'postgresql://reelgate:%s@postgres:5432/reelgate' "$(cat secrets/postgres_password)" > secrets/store_url
for name in highwayapi_key myrouter_key unified_key; do
  given "$name" || printf sandbox-key > "secrets/$name"
done
echo "deploy/secrets/: $(ls secrets | tr '\n' ' ')"
