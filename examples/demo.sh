#!/bin/bash
# The main job, from nothing: an ssh server of its own, the daemon, and a container that reads and writes a directory
# on that server. Without Docker, this shell plays the container. All of it is temporary and gone afterwards.
#
#   make demo            (or: examples/demo.sh PATH_OF_EASYFUSE)
#
# Variable: DEMO_DOCKER=no leaves Docker out.
set -eu
easyfuse=$(readlink -f "${1:?usage: examples/demo.sh PATH_OF_EASYFUSE}")
[ "$(id -u)" = 0 ] || { echo "demo: mounting needs root; type: sudo make demo" >&2; exit 1; }
[ -c /dev/fuse ] || { echo "demo: there is no /dev/fuse; type: modprobe fuse" >&2; exit 1; }
for program in sshfs ssh-keygen /usr/sbin/sshd curl; do
  command -v "$program" >/dev/null || { echo "demo: no $program; type: tests/deps demo" >&2; exit 1; }
done

dir=$(mktemp -d /tmp/easyfuse-demo.XXXXXX)
name=easyfuse-demo-$$
pids=()
engine=()      # how to call docker, if there is one
spec=

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

cleanup() {
  set +e
  if [ ${#engine[@]} -gt 0 ]; then
    "${engine[@]}" rm -f "$name" >/dev/null 2>&1
    "${engine[@]}" volume rm "$name" >/dev/null 2>&1
    "${engine[@]}" image rm "$name" >/dev/null 2>&1
  fi
  "$easyfuse" volume -s "$dir/easyfuse.sock" unmount --force "$name" >/dev/null 2>&1
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" 2>/dev/null; done
  [ -n "$spec" ] && rm -f "$spec"
  # Whatever is still mounted below (an engine's own overlays) goes without a look at it.
  awk -v dir="$dir/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount -l 2>/dev/null
  rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

wait_for() { # seconds, command...
  local tries=$(($1 * 20))
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "demo: gave up waiting for: $*" >&2; tail -n 20 "$dir"/*.log >&2; exit 1; }
    sleep 0.05
  done
}

free_port() {
  local port
  for port in $(seq 20022 20122); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }; done
  echo "demo: no free port between 20022 and 20122" >&2
  exit 1
}

say "An ssh server with a directory on it"
mkdir -p /run/sshd "$dir/remote"
echo "written on the server" >"$dir/remote/hello.txt"
port=$(free_port)
ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$dir/user_key"
echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$dir/host_key.pub")" >"$dir/known_hosts"
cat >"$dir/sshd_config" <<END
ListenAddress 127.0.0.1:$port
HostKey $dir/host_key
AuthorizedKeysFile $dir/user_key.pub
PidFile none
StrictModes no
UsePAM yes
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
END
/usr/sbin/sshd -D -e -f "$dir/sshd_config" >"$dir/sshd.log" 2>&1 &
pids+=($!)
wait_for 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
echo "sshd on 127.0.0.1:$port serves $dir/remote"

say "The daemon"
"$easyfuse" serve --sock "$dir/easyfuse.sock" --mntpt "$dir/mntpt" --mntdb "$dir/state" >"$dir/easyfuse.log" 2>&1 &
pids+=($!)
wait_for 10 "$easyfuse" volume -s "$dir/easyfuse.sock" ls
show "$easyfuse" --version

device="sshfs#root@127.0.0.1:$dir/remote"
options="port=$port,IdentityFile=$dir/user_key,UserKnownHostsFile=$dir/known_hosts,allow_other,reconnect"

# An engine that runs already, or one of our own if it is installed.
find_engine() {
  [ "${DEMO_DOCKER:-yes}" = yes ] || return 1
  local docker
  # Debian's own client speaks to every engine; a newer one may refuse an older engine.
  for docker in docker /usr/bin/docker; do
    command -v "$docker" >/dev/null || continue
    if "$docker" version >/dev/null 2>&1; then
      engine=("$docker")
      return 0
    fi
    command -v dockerd >/dev/null || continue
    if [ ! -S "$dir/docker.sock" ]; then
      dockerd --data-root "$dir/docker" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" -H "unix://$dir/docker.sock" \
        --bridge=none --iptables=false >"$dir/dockerd.log" 2>&1 &
      pids+=($!)
      for _ in $(seq 200); do [ -S "$dir/docker.sock" ] && break; sleep 0.05; done
    fi
    for _ in $(seq 100); do
      if "$docker" -H "unix://$dir/docker.sock" version >/dev/null 2>&1; then
        engine=("$docker" -H "unix://$dir/docker.sock")
        return 0
      fi
      sleep 0.05
    done
  done
  return 1
}

# An image without a registry: this machine's shell and the programs that we need, with their libraries.
make_image() {
  local program file root=$dir/image
  for program in /bin/sh /bin/ls /bin/cat; do
    for file in "$program" $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
      mkdir -p "$root$(dirname "$file")"
      cp -Ln "$file" "$root$file" 2>/dev/null || cp -L "$file" "$root$file"
    done
  done
  tar -C "$root" -c . | "${engine[@]}" import - "$name" >/dev/null
}

if find_engine; then
  say "Docker: a volume, and a container that reads and writes on the server"
  make_image
  spec=/etc/docker/plugins/$name.spec
  mkdir -p /etc/docker/plugins
  echo "unix://$dir/easyfuse.sock" >"$spec"
  show "${engine[@]}" volume create -d "$name" -o "device=$device" -o "o=$options" "$name"
  show "${engine[@]}" run --rm --network none --name "$name" -v "$name:/data" "$name" \
    /bin/sh -c 'cat /data/hello.txt; echo "written in a container" >/data/reply.txt; ls -l /data'
  say "What the daemon knows, in docker's own words"
  show "${engine[@]}" volume inspect "$name"
  show "${engine[@]}" volume rm "$name"
else
  say "No Docker here: the calls that it makes, and this shell in the container's place"
  call() {
    printf '$ curl --unix-socket easyfuse.sock http://easyfuse/%s -d %s\n' "$1" "'$2'"
    curl -sS --fail-with-body --unix-socket "$dir/easyfuse.sock" "http://easyfuse/$1" -d "$2"
    echo
  }
  call VolumeDriver.Create "{\"Name\": \"$name\", \"Opts\": {\"device\": \"$device\", \"o\": \"$options\"}}"
  call VolumeDriver.Mount "{\"Name\": \"$name\", \"ID\": \"demo\"}"
  show cat "$dir/mntpt/$name/hello.txt"
  echo "written through the volume" >"$dir/mntpt/$name/reply.txt"
  show "$easyfuse" volume -s "$dir/easyfuse.sock" ls
  call VolumeDriver.Unmount "{\"Name\": \"$name\", \"ID\": \"demo\"}"
  call VolumeDriver.Remove "{\"Name\": \"$name\"}"
fi

say "On the server"
show cat "$dir/remote/reply.txt"
say "Nothing is left mounted"
if grep -F "$dir/mntpt" /proc/self/mountinfo; then echo "demo: something is" >&2; exit 1; fi
echo "Done."
