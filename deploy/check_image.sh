#!/usr/bin/env bash
# Builds the image for real, without a container engine or a registry, and runs its server as the image says: without rights, on a
# read-only root. For root on Debian, with buildah and debootstrap. The base takes python's place; it is kept for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
base=localhost/kqv-check-base image=localhost/kqv-check port=${PORT:-8765}
work=$(mktemp -d)
containers=()

clean_up() {
  [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
  for container in "${containers[@]}"; do buildah rm "$container" >/dev/null || true; done
  rm -rf "$work"
}
trap clean_up EXIT

step() { printf '\n== %s\n' "$*"; }

make_base() {
  step "a base: Debian with Python, by debootstrap"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$work/root" >/dev/null
  ln -s python3 "$work/root/usr/bin/python"
  # This machine's own authorities, where a mirror of packages is signed by one.
  cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  local container
  container=$(buildah from scratch)
  containers+=("$container")
  buildah add -q "$container" "$work/root" / >/dev/null
  buildah config --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt --env PIP_FIND_LINKS=/wheels "$container"
  buildah commit -q "$container" "$base" >/dev/null
  rm -rf "$work/root"
}

config_of() { buildah inspect --type image --format "{{range .OCIv1.Config.$1}}{{println .}}{{end}}" "$image"; }

ask() { curl --silent --show-error --fail --max-time 30 "http://127.0.0.1:$port$1" "${@:2}"; }

# Wheels of this machine's own, where pip is told of a folder of them: torch for the CPU alone, say.
wheels=()
[ ! -d "${PIP_FIND_LINKS:-}" ] || wheels=(--volume "$PIP_FIND_LINKS:/wheels:ro")

buildah inspect --type image "$base" >/dev/null 2>&1 || make_base

step "the image, from the Dockerfile"
buildah bud --quiet --pull-never --build-arg BASE="$base" "${wheels[@]}" --tag "$image" . >/dev/null

user=$(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$image")
step "its server, as $user, on a read-only root"
container=$(buildah from --pull-never "$image")
containers+=("$container")
root=$(buildah mount "$container")
[ "${user%%:*}" -gt 0 ] || { echo "the image runs as $user" >&2; exit 1; }
mapfile -t environment < <(config_of Env | sed '/^$/d')
mapfile -t command < <({ config_of Entrypoint; config_of Cmd; } | sed '/^$/d')
# A mount namespace of its own: what is mounted here is gone with it.
unshare --mount bash -euc '
  root=$1 user=$2; shift 2
  mount --bind "$root" "$root"
  mount --rbind /proc "$root/proc"
  mount --bind /dev "$root/dev"
  mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/tmp"
  mount -o remount,bind,ro "$root"
  if touch "$root/written" 2>/dev/null; then echo "the root can be written to" >&2; exit 1; fi
  exec chroot --userspec="$user" "$root" env -i "$@"
' -- "$root" "$user" "${environment[@]}" "KQV_PORT=$port" "${command[@]}" &
server=$!

for _ in $(seq 120); do
  ask /readyz >/dev/null 2>&1 && break
  kill -0 "$server" || { echo "the server ended" >&2; exit 1; }
  sleep 0.5
done
echo "/readyz: $(ask /readyz)"
[ "$(awk '/^Uid:/ { print $2 }' "/proc/$server/status")" = "${user%%:*}" ]
model=$(ask /v1/models | python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])')
ask /v1/analyze --header 'Content-Type: application/json' --data '{"input": "The cat sat on the mat.", "weights": "none"}' |
  python3 -c 'import json, sys; [result] = json.load(sys.stdin)["results"]; print("/v1/analyze:", *result["tokens"])'

step "and it stops when it is told to"
kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" = 0 ] || { echo "it ended with status $status" >&2; exit 1; }
printf '\nThe image is well: %s, serving %s.\n' "$(buildah images --format '{{.Size}}' "$image")" "$model"
