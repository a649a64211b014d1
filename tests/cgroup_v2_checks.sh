# Runs on the emulated machine. Each check's output stands between "@@ <name>" and "@@ <exit code> <name>" on the console.
check() {
  name=$1
  shift
  echo "@@ $name"
  sh -c "$*" 2>&1
  echo "@@ $? $name"
}
dmesg -n 1
export DOCKER_HOST=unix:///run/dhow/q/docker.sock KUBECONFIG=/var/lib/dhow/clusters/q/kubeconfig

check own 'cat /proc/self/cgroup; ls /sys/fs/cgroup; uname -r'
check up 'dhow up --name q --nodes 2 --zones 2 --deploy /examples/hello'
check nodes 'kubectl get nodes,pods -o wide'
check url 'wget -q -O - http://$(kubectl get service hello -o jsonpath="{.status.loadBalancer.ingress[0].ip}")/'
check groups 'cd /sys/fs/cgroup; for g in $(find dhow -type d); do echo "$g $(wc -l < $g/cgroup.procs) [$(cat $g/cgroup.subtree_control)]"; done'
check podlimits 'cat $(find /sys/fs/cgroup/dhow/q -path "*/pods/*/pod*/*" -name memory.max)'
check users 'image=$(kubectl get deployment hello -o jsonpath="{.spec.template.spec.containers[0].image}"); kubectl run users --image=$image --overrides="{\"spec\":{\"hostUsers\":false}}"; kubectl wait --for=condition=Ready pod/users --timeout=30s; cat $(grep -l "^ *0 *[1-9]" /proc/[0-9]*/uid_map); kubectl delete pod users --now; kubectl get events --field-selector involvedObject.name=users,type=Warning'
check load 'docker load -i /busybox.tar'
check limits 'docker run --rm --memory 64m --cpus 0.5 --pids-limit 40 busybox sh -c "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; mount | grep cgroup"'
check oom 'docker run --name oom --memory 16m --memory-swap 16m busybox sh -c "x=a; while true; do x=\$x\$x; done"; echo code $?; docker inspect -f "{{.State.OOMKilled}} {{.State.ExitCode}}" oom; docker rm oom'
check pids 'docker run --rm --pids-limit 6 busybox sh -c "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait"'
check stats 'docker run -d --name busy --memory 64m --cpus 0.5 busybox sh -c "while true; do :; done"; sleep 2; docker stats --no-stream --format "{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}" busy'
check pause 'docker pause busy; docker inspect -f "{{.State.Status}}" busy; grep -h frozen /sys/fs/cgroup/dhow/q/engine/*/cgroup.events; docker unpause busy; docker inspect -f "{{.State.Status}}" busy; docker rm -f busy'
check devices 'docker run --rm busybox sh -c "exec 2>&1; busybox mknod /tmp/d b $(cat /sys/class/block/nvme0n1/dev | tr : " ") && echo made; head -c 3 /tmp/d | wc -c; head -c 3 /dev/urandom | wc -c"'
check device 'docker run --rm --device /dev/nvme0n1:/dev/disk:r busybox sh -c "exec 2>&1; head -c 3 /dev/disk | wc -c; echo x > /dev/disk"'
check privileged 'docker run --rm --privileged busybox sh -c "mkdir /sys/fs/cgroup/mine && echo writable"'
check again 'dhow machine stop q-node-1 --name q && kubectl wait --for=condition=Ready=Unknown node/q-node-1 --timeout=60s && dhow machine start q-node-1 --name q && kubectl wait --for=condition=Ready node/q-node-1 --timeout=60s && dhow status --name q; cat /sys/fs/cgroup/dhow/q/q-node-1/cgroup.procs | wc -l'
check down 'dhow down --name q'
check left 'find /sys/fs/cgroup -path "*dhow/*" -type d; cat /proc/[0-9]*/comm | grep dhow; grep dhow /proc/mounts; ls -A /run/dhow /var/lib/dhow/clusters'
