#!/bin/sh
# The first process of the emulated machine: mounts what an init system would, with its groups laid out as systemd's,
# and runs /checks.sh as a user's session.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/dhow HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
hostname v2
ifconfig lo up

session=/sys/fs/cgroup/user.slice/user-0.slice/session-1.scope
mkdir -p /sys/fs/cgroup/init.scope $session
for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo "$pid" > /sys/fs/cgroup/init.scope/cgroup.procs; done 2>/dev/null
for group in /sys/fs/cgroup /sys/fs/cgroup/user.slice /sys/fs/cgroup/user.slice/user-0.slice; do
  echo "+memory +pids" > $group/cgroup.subtree_control
done
sh -c "echo \$\$ > $session/cgroup.procs; exec sh /checks.sh"
sync
poweroff -f
