//! What a host with systemd as PID 1 shows: units, socket activation, the journal, scopes, restarts, reboots.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;

/// How long whatever should happen on a host soon may take on a busy machine.
const SOON: u64 = 60;

/// Counts in `/data/log` as fast as it can, and ends at the first error.
const WRITER: &str = "set -e; i=0; while :; do i=$((i+1)); echo $i >>/data/log; \
                      [ \"$(tail -n1 /data/log)\" = $i ]; sleep 0.02; done";

#[test]
fn units_are_installed_run_and_uninstalled() {
    require!(Host);
    let host = Host::boot();
    host.sh("mkdir '/opt/new $version' && mv /usr/local/bin/easyfuse '/opt/new $version'");

    host.sh("'/opt/new $version/easyfuse' systemd install --enable");
    assert_eq!(verify(&host, "/etc/systemd/system"), "");
    assert_eq!(
        host.sh("systemctl is-enabled easyfuse.socket; systemctl is-active easyfuse.socket"),
        "enabled\nactive"
    );
    assert_eq!(host.sh("stat -c '%a %U' /run/docker/plugins/easyfuse.sock"), "600 root");
    assert_eq!(
        host.sh("docker volume create -d easyfuse -o device=/opt/none#x kept 2>&1 || true").lines().count(),
        1
    );
    host.sh("docker volume create -d easyfuse -o device=bindfs#/srv kept");
    assert_eq!(
        host.sh("readlink /proc/$(systemctl show -P MainPID easyfuse)/exe"),
        "/usr/local/bin/easyfuse"
    );

    host.sh("easyfuse systemd uninstall");
    assert!(!host.holds("systemctl cat easyfuse.socket || systemctl cat easyfuse.service"));
    assert!(!host.holds("test -e /run/docker/plugins/easyfuse.sock || pgrep -x easyfuse"));
    assert!(
        host.run(&["easyfuse", "systemd", "uninstall"])
            .err()
            .contains("no units of easyfuse in /etc/systemd/system")
    );

    host.sh("'/opt/new $version/easyfuse' systemd install local --path /run/systemd/system");
    assert_eq!(verify(&host, "/run/systemd/system"), "");
    host.sh("systemctl daemon-reload && systemctl start easyfuse.socket");
    assert_eq!(host.sh("docker volume ls -q"), "kept", "an uninstall keeps volumes");
    assert_eq!(
        host.sh("readlink /proc/$(systemctl show -P MainPID easyfuse)/exe"),
        "/opt/new $version/easyfuse"
    );
    host.sh("easyfuse systemd uninstall --path /run/systemd/system");
    assert!(!host.holds("ls /run/systemd/system/easyfuse* || pgrep -x easyfuse"));
}

#[test]
fn docker_alone_starts_the_service_and_the_journal_tells_each_volumes_story() {
    require!(Host, Sshfs);
    let host = installed();
    assert_eq!(host.sh("systemctl is-active easyfuse.service || true"), "inactive");

    create_sshfs(&host, "alpha", "/srv/alpha");
    assert_eq!(host.sh("systemctl is-active easyfuse.service"), "active");
    host.sh("echo from the server >/srv/alpha/hello");
    let read = host.sh("docker run --rm -v alpha:/data busybox sh -c 'cat /data/hello; echo from the container >/data/answer'");
    assert_eq!(read, "from the server");
    assert_eq!(host.sh("cat /srv/alpha/answer"), "from the container");

    create_sshfs(&host, "beta", "/srv/nowhere");
    let said = host.run(&["docker", "run", "--rm", "-v", "beta:/data", "busybox", "true"]).err();
    assert!(said.contains("beta") && said.contains("No such file"), "{said}");
    host.run(&["docker", "volume", "create", "-d", "easyfuse", "-o", "devise=x", "gamma"]).err();
    host.sh("docker volume rm alpha beta");
    assert_eq!(
        host.sh("cd /run/easyfuse/mntpt && find . -type f -not -name lock -not -name started"),
        "",
        "a failed mount leaves nothing"
    );
    host.sh("easyfuse doctor");

    assert_eq!(told(&host, "alpha"), ["create", "mount", "unmount", "remove"]);
    assert_eq!(told(&host, "beta"), ["create", "mount!", "remove"]);
    assert_eq!(told(&host, "gamma"), ["create!"]);
}

#[test]
fn helpers_live_in_scopes_of_their_own() {
    require!(Host, Sshfs);
    let host = installed();
    create_sshfs(&host, "data", "/srv/data");
    host.sh("docker run -d --init --name user -v data:/data busybox sleep 1000");

    let scope = host.sh("systemctl list-units --plain --no-legend 'easyfuse-*.scope'");
    let (name, rest) = scope.split_once(' ').unwrap();
    assert!(
        name.starts_with("easyfuse-data-")
            && rest.contains("active running FUSE filesystem of Docker volume data"),
        "{scope}"
    );
    let helper = status(&host, "data")["helper_pid"].to_string();
    assert!(host.sh(&format!("cat /proc/{helper}/cgroup")).contains(name));
    let group = "/sys/fs/cgroup/system.slice/easyfuse.service/cgroup.procs";
    assert_eq!(host.sh(&format!("cat {group}")), host.sh("systemctl show -P MainPID easyfuse"));

    host.sh("docker rm -f user");
    assert!(!host.holds("mountpoint -q /run/easyfuse/mntpt/data"));
    host.wait_for(SOON, "! systemctl list-units --all --plain --no-legend 'easyfuse-*.scope' | grep .");
}

#[test]
fn a_container_that_writes_notices_nothing_of_what_happens_to_the_daemon() {
    require!(Host, Sshfs);
    let host = installed();
    create_sshfs(&host, "data", "/srv/data");
    host.sh(&format!("docker run -d --init --name writer -v data:/data busybox sh -c '{WRITER}'"));
    let still_writes = |after: &str| {
        let seen = host.sh("wc -l </srv/data/log");
        host.wait_for(SOON, &format!("[ $(wc -l </srv/data/log) -gt $(({seen} + 3)) ]"));
        assert_eq!(host.sh("docker inspect -f '{{.State.Running}}' writer"), "true", "after {after}");
        assert_eq!(host.sh("systemctl is-active easyfuse.socket"), "active", "after {after}");
        let status = status(&host, "data");
        assert_eq!(status["state"], "mounted", "after {after}: {status}");
        assert_eq!(status["references"].as_array().unwrap().len(), 1, "after {after}: {status}");
    };
    still_writes("its start");

    let first = main_pid(&host);
    host.sh("systemctl restart easyfuse");
    assert_ne!(main_pid(&host), first);
    still_writes("a restart");

    let second = main_pid(&host);
    host.sh(&format!("kill -9 {second}"));
    host.wait_for(
        SOON,
        "systemctl show -P NRestarts easyfuse | grep -qx 1 && systemctl is-active -q easyfuse",
    );
    still_writes("a crash");

    host.sh("mkdir /opt/new && cp /usr/local/bin/easyfuse /opt/new && echo >>/opt/new/easyfuse");
    host.sh("/opt/new/easyfuse systemd install --enable");
    assert!(host.holds("cmp /opt/new/easyfuse /proc/$(systemctl show -P MainPID easyfuse)/exe"));
    still_writes("an upgrade");

    host.sh("systemctl stop easyfuse");
    assert!(host.holds("systemctl is-active -q easyfuse.socket && ! systemctl is-active -q easyfuse"));
    assert_eq!(host.sh("docker volume ls -q"), "data");
    assert!(host.holds("systemctl is-active -q easyfuse"));
    still_writes("a stop");

    drop_in(&host, "broken", "ExecStart=\nExecStart=/bin/false");
    host.run(&["systemctl", "restart", "easyfuse"]).err();
    host.wait_for(SOON, "[ $(systemctl show -P NRestarts easyfuse) -ge 8 ]");
    assert_eq!(host.sh("systemctl is-active easyfuse.socket"), "active");
    host.sh("rm -r /run/systemd/system/easyfuse.service.d && systemctl daemon-reload");
    still_writes("a daemon that can't start");

    host.sh("easyfuse systemd uninstall");
    assert!(!host.holds("pgrep -x easyfuse"));
    host.sh("easyfuse systemd install --enable");
    still_writes("an uninstall");

    drop_in(&host, "impatient", "WatchdogSec=1");
    host.sh("systemctl restart easyfuse");
    let hung = main_pid(&host);
    host.sh(&format!("kill -STOP {hung}"));
    host.wait_for(SOON, &format!("p=$(systemctl show -P MainPID easyfuse); [ $p != 0 ] && [ $p != {hung} ]"));
    assert!(host.sh("journalctl -u easyfuse").contains("Watchdog timeout"));
    still_writes("a hang");

    host.sh("docker rm -f writer && docker volume rm data");
    let log = fs::read_to_string(host.root().join("srv/data/log")).unwrap();
    assert!(
        log.lines().enumerate().all(|(at, line)| line == (at + 1).to_string()),
        "a line is lost or twice"
    );
}

#[test]
fn a_stop_waits_for_a_mount_in_flight_but_not_for_ever() {
    require!(Host, Bindfs);
    let host = Host::new();
    let settings = "EASYFUSE_DRAIN_TIMEOUT=7s\n";
    fs::write(host.root().join("etc/default/easyfuse"), settings).unwrap();
    let host = install(host.booted());
    script(&host, "/opt/slow", &helpers::slow_bindfs(Duration::from_secs(4)));
    script(&host, "/opt/hang", &helpers::hang());
    host.sh("mkdir /srv/data && echo there >/srv/data/file");
    host.sh("docker volume create -d easyfuse -o device=/opt/slow#/srv/data slow");
    host.sh("docker volume create -d easyfuse -o device=/opt/hang#/srv/data hang");
    host.sh("systemctl restart easyfuse");
    assert_eq!(host.sh("systemctl show -P StatusText easyfuse"), "serving volumes");

    let run = host.run_in_background(&[
        "docker",
        "run",
        "--rm",
        "-v",
        "slow:/data",
        "busybox",
        "cat",
        "/data/file",
    ]);
    host.wait_for(SOON, "docker volume inspect slow | grep -q mounting");
    host.sh("systemctl stop --no-block easyfuse");
    host.wait_for(SOON, "systemctl show -P StatusText easyfuse | grep -qx 'finishing requests'");
    assert_eq!(host.sh("systemctl is-active easyfuse || true"), "deactivating");
    assert_eq!(run.wait(Duration::from_mins(1)).ok(), "there", "the mount in flight was finished");

    let run = host.run_in_background(&["docker", "run", "--rm", "-v", "hang:/data", "busybox", "true"]);
    host.wait_for(SOON, "docker volume inspect hang | grep -q mounting");
    host.sh("systemctl stop easyfuse");
    assert_eq!(host.sh("systemctl show -P Result easyfuse"), "success", "it was not killed");
    assert!(run.wait(Duration::from_mins(1)).err().contains("was told to stop"));
    assert!(!host.holds("pgrep -f '/opt/[h]ang' || ls /run/easyfuse/mntpt/hang"));
    assert_eq!(status(&host, "hang")["references"].as_array().unwrap().len(), 0);
}

#[test]
fn a_reboot_and_a_crash_of_the_host_lose_nothing() {
    require!(Host, Sshfs);
    let mut host = installed();
    create_sshfs(&host, "data", "/srv/data");
    host.sh("docker volume create -d easyfuse --label team=blue -o device=bindfs#/srv/other -o o=no-allow-other other");
    host.sh("mkdir /srv/other && touch /srv/data/there /srv/other/there");
    let inspect =
        "docker volume inspect -f '{{.Name}} {{.CreatedAt}} {{json .Labels}} {{json .Options}}' data other";
    let before = host.sh(inspect);
    for name in ["data", "other"] {
        // Says on the volume when it starts and when it is told to end, which takes a while.
        let life = "trap \"sleep 1; echo end >>/data/log; exit\" TERM; \
                    [ -e /data/there ] && echo start >>/data/log; while :; do sleep 0.1; done";
        host.sh(&format!(
            "docker run -d --restart=always --name {name} -v {name}:/data busybox sh -c '{life}'"
        ));
    }
    let logs = |host: &Host| host.sh("cat /srv/data/log") + "|" + &host.sh("cat /srv/other/log");
    let works = |host: &Host, expected: &str| {
        host.wait_for(SOON, "[ $(docker ps -q | wc -l) = 2 ]");
        let lines = format!("{expected}|{expected}");
        assert!(eventually(Duration::from_secs(SOON), || logs(host) == lines), "{:?}", logs(host));
        for name in ["data", "other"] {
            let status = status(host, name);
            assert_eq!(status["state"], "mounted");
            assert_eq!(status["references"].as_array().unwrap().len(), 1, "{status}");
        }
        let now = host.sh(inspect);
        assert_eq!(now, before);
        // What lies under the mounts, and whether anybody could write it.
        let under = "mkdir -p /tmp/run && mount --bind /run /tmp/run && cd /tmp/run/easyfuse/mntpt && \
                     find data other; ! touch data/x 2>&1; cd / && umount /tmp/run";
        assert_eq!(host.sh(under), "data\nother\ntouch: cannot touch 'data/x': Operation not permitted");
        let [asked, up] = ["InactiveExit", "ActiveEnter"].map(|event| {
            let time = host.sh(&format!("systemctl show -P {event}TimestampMonotonic docker"));
            Duration::from_micros(time.parse().unwrap())
        });
        assert!(up - asked < Duration::from_secs(14), "dockerd took {:?} to start", up - asked);
    };
    works(&host, "start");
    host.reboot();
    works(&host, "start\nend\nstart");
    for name in ["data", "other"] {
        let last = host.sh(&format!("journalctl -b -1 -o cat VOLUME={name} | tail -n1"));
        assert!(
            last.starts_with("unmounted after"),
            "dockerd said goodbye before the daemon went down: {last}"
        );
    }
    host.crash();
    works(&host, "start\nend\nstart\nstart");

    host.sh("docker rm -f data other && docker volume rm data other");
    assert_eq!(
        host.sh("ls /run/easyfuse/mntpt /var/lib/easyfuse/volumes"),
        "/run/easyfuse/mntpt:\n\n/var/lib/easyfuse/volumes:"
    );
    host.wait_for(SOON, "! pgrep -x 'sshfs|bindfs'");
}

#[test]
fn a_daemon_killed_in_the_middle_of_a_mount_leaves_nothing_half_done() {
    require!(Host, Bindfs);
    let host = installed();
    script(&host, "/opt/slow", &helpers::slow_bindfs(Duration::from_secs(4)));
    host.sh("mkdir /srv/data && echo there >/srv/data/file");
    host.sh("docker volume create -d easyfuse -o device=/opt/slow#/srv/data slow");
    let cat = ["docker", "run", "--rm", "-v", "slow:/data", "busybox", "cat", "/data/file"];

    let run = host.run_in_background(&cat);
    host.wait_for(SOON, "docker volume inspect slow | grep -q mounting");
    host.sh("kill -9 $(systemctl show -P MainPID easyfuse)");
    let said = run.wait(Duration::from_mins(1));
    assert!(said.success() || said.stderr.contains("try again"), "{said:?}");
    assert!(
        !host.holds("mountpoint -q /run/easyfuse/mntpt/slow || pgrep -f '/opt/[s]low' || pgrep -x bindfs")
    );
    assert_eq!(status(&host, "slow")["references"].as_array().unwrap().len(), 0);

    assert_eq!(host.run(&cat).ok(), "there");
    host.sh("docker volume rm slow");
}

#[test]
fn settings_that_make_no_sense_do_not_hold_up_dockers_start() {
    require!(Host, Bindfs);
    let mut host = installed();
    host.sh("docker volume create -d easyfuse -o device=bindfs#/srv --label kept=yes data");
    host.sh("docker create --name user -v data:/data busybox true");
    host.sh("echo EASYFUSE_MOUNT_TIMEOUT=soon >/etc/default/easyfuse");
    let started = Instant::now();
    host.reboot();
    host.sh("docker ps");
    assert!(started.elapsed() < Duration::from_secs(SOON), "{:?}", started.elapsed());
    assert!(host.sh("systemctl status easyfuse").contains("waiting to be mended"));
    assert!(host.journal().contains("write it as 100s or 2m"));

    host.sh("rm /etc/default/easyfuse && systemctl restart easyfuse");
    assert_eq!(host.sh("docker volume inspect -f '{{.Labels.kept}}' data"), "yes");
    host.sh("docker start -a user && docker rm user && docker volume rm data");
}

#[test]
fn a_server_that_vanished_does_not_hold_up_a_shutdown() {
    require!(Host, Sshfs);
    let mut host = installed();
    create_sshfs(&host, "data", "/srv/data");
    host.sh(&format!("docker run -d --restart=always --name user -v data:/data busybox sh -c '{WRITER}'"));
    host.wait_for(SOON, "test -s /srv/data/log");
    host.sh("kill -STOP $(pgrep -x sshd)");
    let before = Instant::now();
    host.reboot();
    // Dockerd gives its containers 15 s to end.
    assert!(before.elapsed() < Duration::from_mins(1), "it took {:?}", before.elapsed());
    host.wait_for(
        SOON,
        "[ $(docker inspect -f '{{.State.Running}}' user) = true ] && ls /run/easyfuse/mntpt/data/log",
    );
    host.sh("docker rm -f user && docker volume rm data");
}

#[test]
fn a_running_container_sees_its_data_again_after_a_remount() {
    require!(Host, Sshfs);
    let host = installed();
    create_sshfs(&host, "data", "/srv/data");
    host.sh("echo first >/srv/data/file");
    host.sh("docker run -d --init --name user -v data:/data busybox sleep 1000");
    let helper = status(&host, "data")["helper_pid"].to_string();
    host.sh(&format!("kill -9 {helper}"));
    assert!(host.run(&["docker", "exec", "user", "cat", "/data/file"]).err().contains("not connected"));
    assert!(status(&host, "data")["reason"].as_str().unwrap().contains("easyfuse volume remount data"));

    host.sh("easyfuse volume remount data");
    assert_eq!(host.sh("docker exec user cat /data/file"), "first");
    host.sh("docker exec user sh -c 'echo second >/data/file'");
    assert_eq!(host.sh("cat /srv/data/file"), "second");
    assert!(host.run(&["easyfuse", "volume", "remount", "data"]).err().contains("data"));
    assert_eq!(told(&host, "data"), ["create", "mount", "broken", "remount"]);

    host.sh("docker rm -f user && docker volume rm data");
    assert!(!host.holds("grep /run/easyfuse/mntpt/ /proc/self/mountinfo || pgrep -x sshfs"));
}

#[test]
fn references_of_a_killed_engine_go_when_its_containers_do_whatever_services_see_the_mount() {
    require!(Host, Sshfs);
    let host = Host::new();
    fs::write(host.root().join("etc/default/easyfuse"), "EASYFUSE_GRACE=2s\n").unwrap();
    let host = install(host.booted());
    host.sh("systemd-run -q -p PrivateTmp=yes --unit=early sleep 1000");
    create_sshfs(&host, "data", "/srv/data");
    host.sh(&format!("docker run -d --init --name writer -v data:/data busybox sh -c '{WRITER}'"));
    host.sh("systemd-run -q -p PrivateTmp=yes --unit=late sleep 1000");
    for service in ["early", "late"] {
        assert!(
            host.holds(&format!("grep -q mntpt/data /proc/$(systemctl show -P MainPID {service})/mountinfo"))
        );
    }
    // An engine that is gone, with a container that lives on.
    host.sh("mkdir -p /run/systemd/system/docker.service.d");
    host.sh("printf '[Service]\\nRestart=no\\n' >/run/systemd/system/docker.service.d/no.conf");
    host.sh("systemctl daemon-reload; systemctl kill -s KILL docker; systemctl stop docker.socket docker");
    let seen = host.sh("wc -l </srv/data/log");
    host.sh("sleep 6");
    assert_ne!(host.sh("wc -l </srv/data/log"), seen, "the container does not write any more");
    assert_eq!(status(&host, "data")["references"].as_array().unwrap().len(), 1);

    host.sh("systemctl start docker");
    assert_eq!(host.sh("docker inspect -f '{{.State.Running}}' writer"), "false");
    host.wait_for(SOON, "docker volume inspect data | grep -q '\"state\": \"created\"'");
    assert_eq!(status(&host, "data")["references"].as_array().unwrap().len(), 0);
    assert!(!host.holds("mountpoint -q /run/easyfuse/mntpt/data"));
    host.wait_for(SOON, "! pgrep -x sshfs");
    host.sh("docker rm writer && docker volume rm data");
}

/// A host with the plugin, an image, and an SSH server that outlives the engine.
#[track_caller]
fn installed() -> Host {
    install(Host::boot())
}

#[track_caller]
fn install(host: Host) -> Host {
    host.load_busybox();
    host.sh("easyfuse systemd install --enable");
    host.sh("mkdir /etc/peer && cd /etc/peer
         ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f user
         echo \"[127.0.0.1]:2022 $(cat host.pub)\" >known_hosts
         cat >sshd_config <<-END
         ListenAddress 127.0.0.1:2022
         HostKey /etc/peer/host
         AuthorizedKeysFile /etc/peer/user.pub
         StrictModes no
         UsePAM no
         Subsystem sftp internal-sftp
END
         cat >/etc/systemd/system/peer.service <<-END
[Unit]
Before=docker.service
[Service]
Type=notify
ExecStart=/usr/sbin/sshd -D -f /etc/peer/sshd_config
RuntimeDirectory=sshd
[Install]
WantedBy=multi-user.target
END
         systemctl daemon-reload && systemctl enable -q --now peer");
    host
}

#[track_caller]
fn create_sshfs(host: &Host, name: &str, dir: &str) {
    if dir != "/srv/nowhere" {
        host.sh(&format!("mkdir -p {dir}"));
    }
    let options = "port=2022,IdentityFile=/etc/peer/user,UserKnownHostsFile=/etc/peer/known_hosts";
    let device = format!("sshfs#root@127.0.0.1:{dir}");
    host.sh(&format!(
        "docker volume create -d easyfuse --label team=red -o device={device} -o o={options} {name}"
    ));
}

/// Writes an executable into a running host.
fn script(host: &Host, path: &str, content: &str) {
    host.sh(&format!("cat >{path} <<'SCRIPT'\n{content}\nSCRIPT\nchmod 755 {path}"));
}

/// Changes the service until the next boot.
fn drop_in(host: &Host, name: &str, lines: &str) {
    let dir = "/run/systemd/system/easyfuse.service.d";
    host.sh(&format!(
        "mkdir -p {dir} && printf '[Service]\\n%b\\n' '{}' >{dir}/{name}.conf",
        lines.replace('\n', "\\n")
    ));
    host.sh("systemctl daemon-reload");
}

#[track_caller]
fn main_pid(host: &Host) -> String {
    host.sh("systemctl show -P MainPID easyfuse")
}

/// What `systemd-analyze` has to say of the units in `dir`.
#[track_caller]
fn verify(host: &Host, dir: &str) -> String {
    host.sh(&format!("systemd-analyze verify {dir}/easyfuse.socket {dir}/easyfuse.service 2>&1"))
}

/// `Status` of a volume, fresh.
#[track_caller]
fn status(host: &Host, volume: &str) -> Value {
    let text = host.sh(&format!("easyfuse volume inspect {volume} --json"));
    let volumes: Value = serde_json::from_str(&text).unwrap();
    volumes[0]["Status"].clone()
}

/// The operations that `journalctl VOLUME=` tells, those that failed with a `!`.
#[track_caller]
fn told(host: &Host, volume: &str) -> Vec<String> {
    let lines = host.sh(&format!("journalctl -o json VOLUME={volume}"));
    let entries = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries
        .map(|entry| {
            let message = entry["MESSAGE"].as_str().unwrap();
            if message.starts_with("broken") {
                return "broken".to_owned(); // nobody asked
            }
            assert!(entry["REQUEST_ID"].is_string(), "{entry}");
            assert_eq!(entry["_SYSTEMD_UNIT"], "easyfuse.service");
            assert!(
                ["alpha", "beta", "gamma"]
                    .iter()
                    .all(|other| { *other == volume || !message.contains(other) })
            );
            let failed = entry["PRIORITY"] == "3";
            entry["OPERATION"].as_str().unwrap().to_owned() + if failed { "!" } else { "" }
        })
        .collect()
}
