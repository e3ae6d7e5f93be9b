#!/bin/bash
# Makes the managed plugin out of this machine's own programs; no registry is asked.
#
#   sudo plugin-spec/managed/build.sh EASYFUSE_BINARY [PLUGIN_NAME]
#
# Variables (sudo NAME=value build.sh ...):
#   DOCKER="docker -H unix:///run/other.sock"   another engine
#   PROGRAMS="rclone s3fs"                      further helper programs to put in
set -eu
here=$(cd "$(dirname "$0")" && pwd)
die() { echo "build.sh: $*" >&2; exit 1; }

binary=${1:-}
name=${2:-easyfuse}
read -ra docker <<<"${DOCKER:-docker}"
read -ra extra <<<"${PROGRAMS:-}"

[ -n "$binary" ] || die "which easyfuse? Type: $0 target/release/easyfuse"
[ -x "$binary" ] || die "$binary is not a program; build it first: cargo build --release"
[ "$(id -u)" = 0 ] || die "only root may; type: sudo $0 $*"
"${docker[@]}" version >/dev/null || die "no Docker Engine answers to '${docker[*]} version'"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/rootfs
install -d -m 755 "$work" "$root"
cp "$here/config.json" "$work/"

# The same directories and /bin -> usr/bin links as here, so that every copied path stays right.
for dir in bin sbin lib lib64; do
  if [ -L "/$dir" ]; then
    mkdir -p "$root/$(readlink -m "/$dir")"
    ln -s "$(readlink "/$dir")" "$root/$dir"
  fi
done
mkdir -p "$root"/{dev,proc,sys,tmp,run/docker/plugins,mnt/volumes,var/lib/easyfuse,srv,usr/local/bin,etc/ssh}
install -d -m 700 "$root/root" "$root/root/.ssh"
chmod 1777 "$root/tmp"

# copy FILE: the file, or the link and what it points to
copy() {
  local dir
  dir=$root$(dirname "$1")
  mkdir -p "$dir"
  if [ -L "$1" ] && [ ! -e "$dir/$(basename "$1")" ]; then
    cp -P "$1" "$dir/"
    copy "$(readlink -f "$1")"
  else
    cp -p "$1" "$dir/"
  fi
}

# copy_libraries FILE: what it is linked with (ldd fails on a static program: nothing to copy)
copy_libraries() {
  local library
  for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ :]*'); do
    [ -e "$root$library" ] || copy "$library"
  done
}

# mount.fuse starts its helper through sh.
for program in sh mount umount mount.fuse mount.fuse3 mount.fuse.sshfs fusermount3 fusermount sshfs ssh bindfs "${extra[@]}"; do
  path=$(PATH=$PATH:/usr/sbin:/sbin type -P "$program") || path=
  if [ -n "$path" ]; then
    copy "$path"
    copy_libraries "$path"
  else
    case $program in
      sh | mount | umount | mount.fuse | sshfs | ssh) die "$program is not installed; type: apt install sshfs fuse3 openssh-client" ;;
      *) echo "build.sh: without $program, which is not installed here" >&2 ;;
    esac
  fi
done
install -m 755 "$binary" "$root/usr/local/bin/easyfuse"
copy_libraries "$binary"

# The engine puts in the host's resolv.conf and hosts by itself.
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
: >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
ln -s /proc/self/mounts "$root/etc/mtab"
for file in /etc/fuse.conf /etc/ssh/ssh_config /etc/ssl/certs/ca-certificates.crt /etc/protocols /etc/services; do
  if [ -e "$file" ]; then copy "$file"; fi
done

# The engine refuses to enable a plugin whose bind mounts are not there.
install -d -m 700 /var/lib/easyfuse-plugin
[ -d /root/.ssh ] || install -d -m 700 /root/.ssh
mkdir -p /srv

"${docker[@]}" plugin create "$name" "$work"
echo "Now type: ${docker[*]} plugin enable $name"
