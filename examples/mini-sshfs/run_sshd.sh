#!/bin/bash
# A private ssh server to try easyfuse on: this machine only, its own keys, your own account, no root needed.
#
#   run_sshd.sh                run it here; Ctrl-C stops it
#   run_sshd.sh --background   run it in the background
#   run_sshd.sh --stop         stop that one
#
# Variables: SSHD (path of sshd, else /usr/sbin/sshd), MINI_SSHD_PORT (2022).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
examples=$(dirname "$here")
keys=$here/.keys
pidfile=$keys/sshd.pid
sshd=${SSHD:-/usr/sbin/sshd}
port=${MINI_SSHD_PORT:-2022}
user=$(id -un)
die() { echo "run_sshd.sh: $*" >&2; exit 1; }

# The pid of the server in the background; false if there is none.
running() {
  [ -s "$pidfile" ] && pid=$(cat "$pidfile") && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$keys/sshd_config"
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

stop() {
  running || { echo "No server runs in the background."; return 0; }
  kill "$pid"
  for _ in $(seq 50); do running || { rm -f "$pidfile"; echo "Stopped the server (pid $pid)."; return 0; }; sleep 0.1; done
  die "the server does not stop; type: kill -9 $pid"
}

check() {
  case $sshd in /*) ;; *) die "SSHD must be an absolute path, such as /usr/sbin/sshd, not '$sshd'" ;; esac
  [ -x "$sshd" ] || die "no sshd at $sshd; type: sudo apt install openssh-server (or set SSHD=/path/of/sshd)"
  command -v ssh-keygen >/dev/null || die "no ssh-keygen; type: sudo apt install openssh-client"
  [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || die "MINI_SSHD_PORT must be a port number, not '$port'"
  # A comma or a blank would end a mount option, a quote a setting of sshd.
  [[ $here != *[[:space:],\"\\%#\$]* ]] || die "the path $here has a character that mount options can't hold; move it elsewhere"
  if running; then die "it runs already (pid $pid); to stop it, type: $0 --stop"; fi
  if answers; then die "port $port is in use; type: MINI_SSHD_PORT=$((port < 65535 ? port + 1 : 2022)) $0 $*"; fi
}

prepare() {
  umask 077
  mkdir -p "$keys"
  for key in host user; do
    [ -f "$keys/ssh_${key}_ed25519_key" ] || ssh-keygen -q -t ed25519 -N '' -C "mini-sshfs $key" -f "$keys/ssh_${key}_ed25519_key"
  done
  cp "$keys/ssh_user_ed25519_key.pub" "$keys/authorized_keys"
  echo "[localhost]:$port,[127.0.0.1]:$port,[::1]:$port $(cut -d' ' -f1,2 "$keys/ssh_host_ed25519_key.pub")" >"$here/known_hosts"
  chmod 644 "$here/known_hosts"

  # Root needs sshd's empty directory, and PAM where its password is locked ("!"), else sshd refuses it.
  pam=no
  if [ "$(id -u)" = 0 ]; then
    mkdir -p -m 755 /run/sshd
    case $(getent shadow root | cut -d: -f2) in '!'*) pam=yes ;; esac
  fi

  cat >"$keys/sshd_config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
ListenAddress ::1
HostKey "$keys/ssh_host_ed25519_key"
AuthorizedKeysFile "$keys/authorized_keys"
PidFile "$pidfile"
AllowUsers $user
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM $pam
# The checkout may be writable by a group; the keys themselves are not.
StrictModes no
Subsystem sftp internal-sftp
CONFIG
  "$sshd" -t -f "$keys/sshd_config" || die "$sshd refuses $keys/sshd_config: see above"

  umask 022
  mkdir -p "$examples/test"
  [ -e "$examples/test/hello.txt" ] || echo "Hello from the ssh server." >"$examples/test/hello.txt"
  # For docker-compose.yml; sudo would change USER.
  cat >"$examples/.env" <<ENV
MINI_SSHFS_DIR=$examples
MINI_SSHFS_USER=$user
MINI_SSHFS_UID=$(id -u)
MINI_SSHFS_GID=$(id -g)
MINI_SSHFS_PORT=$port
ENV
}

advise() {
  cat <<TEXT
An ssh server for $user on localhost, port $port, with the files in $examples/test

Try it:
  ssh -o UserKnownHostsFile=$here/known_hosts -i $keys/ssh_user_ed25519_key -p $port $user@localhost

Make a volume of it:
  sudo docker volume create -d easyfuse \\
    -o device=sshfs#$user@localhost:$examples/test \\
    -o o=IdentityFile=$keys/ssh_user_ed25519_key,UserKnownHostsFile=$here/known_hosts,port=$port,uid=$(id -u),gid=$(id -g),users,idmap=user,noatime,allow_other,_netdev,reconnect,rw \\
    my-volume

Use it:
  sudo docker run --rm -v my-volume:/my-volume busybox ls -la /my-volume

TEXT
}

case ${1:-} in
  '')
    check
    prepare
    advise
    echo "Ctrl-C stops it."
    exec "$sshd" -D -e -f "$keys/sshd_config" ;;
  --background)
    check "$1"
    prepare
    "$sshd" -f "$keys/sshd_config" -E "$keys/sshd.log"
    for _ in $(seq 50); do if running && answers; then break; fi; sleep 0.1; done
    running || { tail -n 5 "$keys/sshd.log" >&2; die "the server did not start: see above"; }
    advise
    echo "It runs in the background (pid $pid, log $keys/sshd.log). To stop it, type: $0 --stop" ;;
  --stop) stop ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" ;;
  *) die "unknown argument '$1'; type: $0 --help" ;;
esac
