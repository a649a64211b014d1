# Runs on both emulated machines; systemd is the first process. Each check's output stands between "@@ <name>" and "@@ <exit code> <name>".
check() {
  name=$1
  shift
  echo "@@ $name"
  sh -c "$*" 2>&1
  echo "@@ $? $name"
}
export KUBECONFIG=/etc/dhow/kubeconfig
dmesg -n 1
modprobe virtio_pci && modprobe virtio_net
for second in 1 2 3 4 5; do [ -e /sys/class/net/eth0 ] || sleep 1; done
ifconfig lo up
case $(hostname) in one) address=10.9.0.1 ;; *) address=10.9.0.2 ;; esac
ifconfig eth0 $address netmask 255.255.255.0 up
route add default gw 10.9.0.254

if [ "$(hostname)" = two ]; then
  until wget -q -O /tmp/join http://10.9.0.1:8000/join; do sleep 0.3; done
  check join "$(cat /tmp/join) --zone east-2"
  check units 'systemctl is-active dhow-agent; systemctl show -p Type,KillMode,Delegate,Restart dhow-agent | cat'
  until wget -q -O /dev/null http://10.9.0.1:8000/restart; do sleep 0.3; done
  # The shim and the container of the one pod here stay; the agent is another.
  check restart 'before=$(pidof hello dhow-shim); agent=$(systemctl show -p MainPID --value dhow-agent); systemctl restart dhow-agent; [ "$before" = "$(pidof hello dhow-shim)" ] && [ "$agent" != "$(systemctl show -p MainPID --value dhow-agent)" ] && echo same containers'
  check killed 'agent=$(systemctl show -p MainPID --value dhow-agent); kill -9 $agent; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1; systemctl is-active -q dhow-agent && break; done; systemctl is-active dhow-agent; pidof hello >/dev/null && echo runs on'
  until wget -q -O /dev/null http://10.9.0.1:8000/upgrade; do sleep 0.3; done
  check upgrade 'before=$(pidof hello); /opt/other/dhow upgrade; readlink /proc/$(systemctl show -p MainPID --value dhow-agent)/exe; [ "$before" = "$(pidof hello)" ] && echo same containers; /opt/other/dhow upgrade'
  until wget -q -O /dev/null http://10.9.0.1:8000/leave; do sleep 0.3; done
  check leave 'dhow leave'
  check left 'pidof hello dhow dhow-shim; ls /etc/systemd/system /var/lib/dhow /run/dhow; ip link | grep dhow; grep dhow /proc/mounts; find /sys/fs/cgroup -path "*/dhow/?*" -type d; cat /proc/sys/net/ipv4/ip_forward'
  exit
fi

httpd -p 10.9.0.1:5000 -h /registry
mkdir -p /srv
httpd -p 10.9.0.1:8000 -h /srv
check server 'dhow server --name q --region east --zone east-1 --node'
check token 'dhow token create --print-join-command | tee /srv/join.new'
mv /srv/join.new /srv/join
check nodes 'for i in $(seq 60); do kubectl get node two >/dev/null 2>&1 && break; sleep 1; done; kubectl wait --for=condition=Ready node/two --timeout=60s; kubectl get nodes -L topology.kubernetes.io/zone'
cat > /tmp/web.json <<EOF
{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},
 "spec":{"nodeSelector":{"kubernetes.io/hostname":"two"},"terminationGracePeriodSeconds":0,
  "containers":[{"name":"hello","image":"10.9.0.1:5000/hello:1","env":[{"name":"NODE_NAME","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}}]}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},
 "spec":{"selector":{"app":"web"},"type":"NodePort","ports":[{"port":80,"targetPort":8080,"nodePort":30080}]}}]}
EOF
check pod 'kubectl apply -f /tmp/web.json && kubectl wait --for=condition=Ready pod/web --timeout=60s; kubectl get pods -o wide'
check service 'for i in 1 2 3 4 5 6 7 8 9 10; do timeout 3 wget -q -O - http://$(kubectl get service web -o jsonpath="{.spec.clusterIP}")/ && break; sleep 1; done; timeout 5 wget -q -O - http://10.9.0.1:30080/'
# kubectl may lose what comes before its streams are made, on machines as slow as these.
check tunnel 'for i in 1 2 3 4 5; do kubectl exec web -- hostname 2>/dev/null | grep web && break; done'
touch /srv/restart
check again 'for i in $(seq 30); do sleep 1; [ "$(kubectl get pod web -o jsonpath="{.status.containerStatuses[0].restartCount}")" = 0 ] && kubectl exec web -- true && break; done; timeout 5 wget -q -O - http://10.9.0.1:30080/'
check status 'dhow status; systemctl is-active dhow-server dhow-agent'
check upgrade '/opt/other/dhow upgrade; for s in dhow-server dhow-agent; do readlink /proc/$(systemctl show -p MainPID --value $s)/exe; done'
check restore 'kubectl create configmap earlier && dhow snapshot save && kubectl create configmap later; dhow snapshot restore $(ls /var/lib/dhow/host/snapshots | grep -v upgrade | tail -n 1); systemctl stop dhow-server && dhow snapshot restore $(ls /var/lib/dhow/host/snapshots | grep -v upgrade | tail -n 1) && systemctl start dhow-server; kubectl get configmap earlier later -o name; kubectl wait --for=condition=Ready node --all --timeout=60s'
touch /srv/upgrade
touch /srv/leave
# It is away for a while as well when its agent is upgraded.
check gone 'away=0; for i in $(seq 120); do if kubectl get node two | grep -q NotReady; then away=$((away + 1)); else away=0; fi; [ $away -ge 6 ] && break; sleep 1; done; kubectl get node two'
